"""`merge` and `verify` from files to files, and what they print."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sta_kernels import cli

ROOT = Path(cli.__file__).parents[2]
SHAPES = {f"model.layers.{i}.{name}.weight": (16, 8) for i in range(3) for name in ("attn", "mlp")}
RECIPE = """\
merge_method: sta
base_model: base
models:
  - model: a
    parameters: {importance: a/importance.safetensors}
  - model: b
    parameters: {importance: b/importance.safetensors}
parameters: {p: 0.7}
"""


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    return {**tensors, "step": np.array([seed], np.int64)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a base, two models with importances, and the recipe."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        Path(name).mkdir()
        save_file(weights(seed) | {"step": np.array([0], np.int64)}, Path(name, "model.safetensors"))
    for seed, name in ((10, "a"), (11, "b")):
        importance = {key: np.abs(value) for key, value in weights(seed).items() if key != "step"}
        save_file(importance, Path(name, "importance.safetensors"))
    Path("recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_merge_says_what_it_did_and_verify_agrees(capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, "merge", "recipe.yaml", "out")
    assert (code, err) == (0, "")
    assert "6 tensors (768 elements), 1 copied" in out
    merged, base = load_file("out/model.safetensors"), load_file("base/model.safetensors")
    a, b = load_file("a/model.safetensors"), load_file("b/model.safetensors")
    from_a = sum(int((merged[name] == base[name] + (a[name] - base[name])).sum()) for name in SHAPES)
    from_b = sum(int((merged[name] == base[name] + (b[name] - base[name])).sum()) for name in SHAPES)
    assert from_a + from_b >= 760  # of two tasks, the more important one everywhere, ties apart
    assert f"kept     {from_a / 768:.1%} of a" in out
    assert f"{from_b / 768:.1%} of b" in out
    assert run(capsys, "verify", "out") == (0, "out: every file is as the merge wrote it\n", "")


def test_a_forgetting_says_what_it_subtracted(capsys: pytest.CaptureFixture[str]):
    forgetting = RECIPE.replace("merge_method: sta", "merge_method: sta_forget")
    Path("recipe.yaml").write_text(forgetting.replace("{p: 0.7}", "{p: 0.7, only_added: true}"))
    code, out, _ = run(capsys, "merge", "recipe.yaml", "out")
    lines = [line for line in out.splitlines() if " of a" in line or " of b" in line]
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith("subtracted  ")
    assert lines[0].endswith("% of a")
    Path("recipe.yaml").write_text(forgetting.replace("{p: 0.7}", "{p: 1.0, only_added: true}"))
    assert "subtracted  0.0% of a\n" in run(capsys, "merge", "recipe.yaml", "none")[1]


def test_the_same_command_again_has_nothing_to_do(capsys: pytest.CaptureFixture[str]):
    run(capsys, "merge", "recipe.yaml", "out")
    before = Path("out/model.safetensors").stat()
    code, out, err = run(capsys, "merge", "recipe.yaml", "out")
    assert (code, err) == (0, "")
    assert "nothing to do" in out
    assert Path("out/model.safetensors").stat() == before


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]):
    assert run(capsys, "merge", "recipe.yaml", "out", "--quiet", "--threads", "1") == (0, "", "")
    assert Path("out/model.safetensors").exists()


def test_dry_run_prints_the_plan_and_touches_nothing(capsys: pytest.CaptureFixture[str]):
    before = sorted(Path().rglob("*"))
    code, out, err = run(capsys, "merge", "recipe.yaml", "out", "--dry-run", "--threads", "2")
    assert (code, err) == (0, "")
    assert sorted(Path().rglob("*")) == before
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line[0] != " ")
    assert lines["tensors"] == "6 merged (768 elements), 1 copied"
    assert lines["method"] == "sta (tier A)"
    assert lines["output"] == "out (1 file of weights)"
    assert lines["threads"] == "2"
    run(capsys, "merge", "recipe.yaml", "out")
    size = Path("out/model.safetensors").stat().st_size
    assert lines["write"] == f"{size / 1000:.3g} kB"
    assert {"models", "read", "disk", "memory"} <= lines.keys()
    assert lines["device"].startswith("cpu (")
    assert "auto: files are read into main memory" in lines["device"]


def test_dry_run_as_json_has_the_figures_and_the_jobs(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "merge", "recipe.yaml", "out", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["method"], plan["tensors_merged"], plan["tensors_copied"]) == ("sta", 6, 1)
    assert {job["tensor"] for job in plan["jobs"]} >= set(SHAPES)
    assert plan["bytes_read"] > 5 * 768 * 4
    assert plan["peak_memory"] <= plan["max_memory"]


def test_options_reach_the_engine(capsys: pytest.CaptureFixture[str]):
    options = ("--out-shard-size", "1kB", "--max-memory", "8GB")  # more than the tests before have left behind
    _, out, _ = run(capsys, "merge", "recipe.yaml", "out", *options, "--dry-run", "--json")
    assert json.loads(out)["max_memory"] == 8 * 10**9
    assert run(capsys, "merge", "recipe.yaml", "out", *options)[0] == 0
    assert len(list(Path("out").glob("model-*-of-*.safetensors"))) > 1
    assert Path("out/model.safetensors.index.json").exists()
    assert run(capsys, "merge", "recipe.yaml", "out")[0] == 2  # other shards: another merge
    assert run(capsys, "merge", "recipe.yaml", "out", "--overwrite")[0] == 0
    assert [path.name for path in Path("out").glob("*.safetensors")] == ["model.safetensors"]


def test_a_profile_goes_to_standard_error(capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, "merge", "recipe.yaml", "out", "--profile")
    assert code == 0
    assert next(line.split()[0] for line in err.splitlines() if line) == "start-up"
    assert "total" in err
    assert "total" not in out
    assert run(capsys, "merge", "recipe.yaml", "out", "--profile")[2] == ""  # nothing to do


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.yaml", "out"), "nowhere.yaml: cannot read the recipe: No such file or directory"),
        (("recipe.yaml", "base"), "base"),
        (("recipe.yaml", "out", "--device", "tpu"), "unknown device 'tpu'; known: auto, cpu, cuda, cuda:N, interpret"),
        (("recipe.yaml", "out", "--max-memory", "lots"), "'lots' is not a size"),
        (("recipe.yaml", "out", "--max-memory", "1MB"), "too little"),
        (("recipe.yaml", "out", "--out-shard-size", "-3"), "not a size"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_message(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    code, out, err = run(capsys, "merge", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("sta-kernels: ")
    assert message in err
    assert not Path("out").exists()


def test_a_mistake_in_the_recipe_names_its_line(capsys: pytest.CaptureFixture[str]):
    Path("recipe.yaml").write_text(RECIPE.replace("p: 0.7", "q: 0.7"))
    code, _, err = run(capsys, "merge", "recipe.yaml", "out")
    assert code == 2
    assert err.startswith("sta-kernels: recipe.yaml:8: parameters.q: not understood")


def test_nonfinite_weights_are_refused_unless_allowed(capsys: pytest.CaptureFixture[str]):
    tensors = load_file("a/model.safetensors")
    name = "model.layers.1.mlp.weight"
    tensors[name][3, 4] = np.nan
    save_file(tensors, "a/model.safetensors")
    code, _, err = run(capsys, "merge", "recipe.yaml", "out")
    assert code == 2
    assert name in err
    assert "[3, 4]" in err
    assert not Path("out/model.safetensors").exists()
    assert run(capsys, "merge", "recipe.yaml", "out", "--allow-nonfinite")[0] == 0


def test_notes_of_the_recipe_go_to_standard_error(capsys: pytest.CaptureFixture[str]):
    text = RECIPE.replace("merge_method: sta", "merge_method: task_arithmetic").replace("{p: 0.7}", "{density: 0.5}")
    lines = [line for line in text.splitlines() if "importance" not in line]
    Path("recipe.yaml").write_text("\n".join(lines))
    code, _, err = run(capsys, "merge", "recipe.yaml", "out")
    assert code == 0
    assert err.startswith("sta-kernels: note: recipe.yaml:6: parameters.density: without effect on task_arithmetic")
    assert "note      recipe.yaml:6" not in run(capsys, "merge", "recipe.yaml", "out2", "--quiet")[2]
    assert "without effect" in run(capsys, "merge", "recipe.yaml", "out2", "--dry-run")[1]


def test_forgetting_counts_what_was_subtracted(capsys: pytest.CaptureFixture[str]):
    text = RECIPE.replace("merge_method: sta", "merge_method: sta_forget").split("  - model: b")[0]
    Path("recipe.yaml").write_text(text)
    code, out, _ = run(capsys, "merge", "recipe.yaml", "out")
    merged, base = load_file("out/model.safetensors"), load_file("base/model.safetensors")
    changed = sum(int((merged[name] != base[name]).sum()) for name in SHAPES)
    assert code == 0
    assert f"{changed / 768:.1%} of a" in out
    assert "none kept" not in out


def test_positions_that_keep_nothing_are_counted(capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        flat = dict.fromkeys(SHAPES, np.ones((16, 8), np.float32))
        save_file(flat, Path(name, "importance.safetensors"))
    _, out, _ = run(capsys, "merge", "recipe.yaml", "out")
    assert "none kept  at 768 positions (100.0%)" in out


def test_verify_names_the_bytes_that_differ(capsys: pytest.CaptureFixture[str]):
    run(capsys, "merge", "recipe.yaml", "out")
    path = Path("out/model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, out, err = run(capsys, "verify", "out")
    assert (code, out) == (1, "")
    assert err.startswith("sta-kernels: out/model.safetensors: bytes 0 to ")


def test_verify_of_what_is_no_merge(capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, "verify", "base")
    assert code == 2
    assert "holds no finished merge" in err


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}


def test_without_a_gpu_device_cuda_is_the_callers_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = run(capsys, "merge", "recipe.yaml", "out", "--device", "cuda")
    assert (code, out) == (2, "")
    assert err.startswith("sta-kernels: device: cuda cannot serve: PyTorch ")
    assert not Path("out").exists()


def test_device_interpret_writes_the_same_files(capsys: pytest.CaptureFixture[str]):
    _, out, _ = run(capsys, "merge", "recipe.yaml", "cpu", "--device", "cpu")
    assert ", on cpu (" in out
    command = [sys.executable, "-m", "sta_kernels", "merge", "recipe.yaml", "interpreted", "--device", "interpret"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert ", on interpret (triton)" in done.stdout
    one, other = (json.loads(Path(name, "sta_kernels_manifest.json").read_text()) for name in ("cpu", "interpreted"))
    assert one["files"] == other["files"]
    assert one["tensors"] == other["tensors"]
    assert other["served_by"]["device"] == "interpret"
    assert run(capsys, "verify", "interpreted")[0] == 0


def test_a_merge_of_safetensors_imports_no_torch():
    code = (
        "import sys; from sta_kernels.cli import main; assert main(['merge', 'recipe.yaml', 'out']) == 0; "
        "print({'torch', 'triton', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_the_plan_of_five_models_takes_half_a_second():
    """Processor time, the best of a few tries; on a slow or busy machine, as a multiple of what NumPy alone takes."""
    models = "".join(
        f"  - {{model: {name}, parameters: {{importance: {name}/importance.safetensors}}}}\n" for name in "ababa"
    )
    Path("recipe.yaml").write_text(f"merge_method: sta\nbase_model: base\nmodels:\n{models}")
    plan = min(_processor_seconds("-m", "sta_kernels", "merge", "recipe.yaml", "out", "--dry-run") for _ in range(3))
    numpy_alone = min(_processor_seconds("-c", "import numpy") for _ in range(3))
    assert plan < max(0.5, 3.5 * numpy_alone)


def _processor_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment(), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
