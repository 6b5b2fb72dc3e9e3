"""The offline suite: a real pretrained ViT and five real image tasks, from package indexes alone.

Cost, in images through the eight blocks (a backward pass counts twice a forward one). Two hyper-threads of a Xeon
manage 230 a second and more. Per seed, with all five tasks:

- fine-tuning: 5 tasks × 80 batches of 32, forward and backward: 38,000;
- importance, Fisher information and Gram matrices, one sample at a time: about 6,000, at half the speed;
- coefficients: about 112 merges × 1,250 validation images: 140,000;
- tests of merges of all tasks: about 61 × 3,500 images: 213,000;
- tests of forgetting, pairs and models of one task: about 43 merges' worth × 2,500 images: 107,000.

That is 500,000 images: 37 minutes a seed, and less than two hours for three. Everything is cached as
it is computed (:mod:`benchmarks.accuracy.offline.store`), so that a run that was stopped goes on where it was.
"""
