"""Runs in mergekit's environment: takes jobs as lines of JSON, and answers each with one.

One process serves all tests, because importing mergekit takes longer than all of its merges here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from typing import Any

# Replies go to the real standard output; whatever the libraries print goes with the errors.
REPLIES = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
os.environ["HF_HUB_OFFLINE"] = "1"

import mergekit  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.io.tasks import LoaderCache  # noqa: E402
from mergekit.merge import run_merge  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402


def merge(recipe: str, out: str, **options: Any) -> None:
    """What mergekit's own command does, but for its log."""
    LoaderCache().loaders.clear()
    with open(recipe, encoding="utf-8") as stream:
        text = stream.read()
    configuration = MergeConfiguration.model_validate(yaml.safe_load(text))
    given = MergeOptions(**{"quiet": True, "copy_tokenizer": False, **options})
    given.apply_global_options()
    run_merge(configuration, out, options=given, config_source=text)


def plug() -> None:
    """Make this project's methods known here."""
    from sta_kernels.integrations.mergekit import install

    install()


def names(config: dict[str, Any], model: str) -> dict[str, list[int]]:
    """Names and shapes of a model's tensors, as the installed transformers has them."""
    with torch.device("meta"):
        built = getattr(transformers, model)(transformers.AutoConfig.for_model(**config))
    return {name: list(tensor.shape) for name, tensor in built.state_dict().items()}


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    jobs = {"merge": merge, "names": names, "plug": plug}
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {"result": jobs[job.pop("job")](**job)}
        except Exception as error:  # whatever it raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=REPLIES, flush=True)


if __name__ == "__main__":
    assert mergekit.__path__, "tests/mergekit stands before the library"
    main()
