"""The offline suite: a real pretrained ViT and five real image tasks, from package indexes alone.

Cost, in images through the eight blocks (a backward pass counts twice a forward one). Two hyper-threads of a Xeon
manage 230 a second and more. Per seed, with all five tasks:

- fine-tuning: 5 tasks × 80 batches of 32, forward and backward: 38,000;
- importance, Fisher information and Gram matrices, one sample at a time: about 6,000, at half the speed;
- coefficients: about 90 merges × 1,250 validation images: 112,000;
- tests of the main tables: about 40 merges × 3,500 images: 140,000;
- tests of the other tables, on 500 images a task: about 55 merges' worth × 2,500 images: 137,000.

That is 430,000 images or half an hour a seed, and an hour and a half for three. Everything is cached as
it is computed (:mod:`benchmarks.accuracy.offline.store`), so that a run that was stopped goes on where it was.
"""
