"""Why is the paper's base so low? Its three suspects, two by two by two: augmentation, stem and optimiser.

    python -m benchmarks.max_entropy_base --data-dir DIR [--recipe subset] [--seeds 2] [--set classifier.epochs=10]

Trains max_entropy's first stage only, and prints accuracy on the test split, in percent, for each of the eight cells.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import torch

from distributed.worker import LocalWorker, best_runtime
from methods.data import DataSpec, load, load_test
from methods.max_entropy.stages import METHOD, classifier_net, filled
from methods.metrics import accuracy

SUSPECTS = {
    "augment": ("none", "crop_flip"),
    "stem": ("imagenet", "cifar"),
    "optimizer": ("adam", "sgd"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="where the CIFAR sets lie")
    parser.add_argument("--recipe", default="subset", choices=METHOD.recipes)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="classifier.FIELD=VALUE")
    args = parser.parse_args()
    settings = dict(word.split("=", 1) for word in args.set)
    recipe = METHOD.recipes[args.recipe]
    spec = DataSpec(recipe.data, directory=args.data_dir, train_size=recipe.train_size)
    data, test = load(spec), load_test(spec)

    print("| " + " | ".join(SUSPECTS) + f" | test %, mean of {args.seeds} | sd |\n|---|---|---|---|---|")
    for cell in itertools.product(*SUSPECTS.values()):
        chosen: dict[str, object] = {f"classifier.{name}": value for name, value in zip(SUSPECTS, cell, strict=True)}
        if chosen["classifier.optimizer"] == "adam":
            chosen["classifier.weight_decay"] = 0.0  # as the paper; for Adam it is no decay but a second gradient
        config = METHOD.configure(args.recipe, {**settings, **chosen})["classifier"]
        scores = []
        for seed in range(args.seeds):
            worker = LocalWorker(data, seed=seed, runtime=best_runtime())
            torch.manual_seed(seed)
            state = METHOD.stages[0].run(worker, config, {})
            net = worker.place(filled(classifier_net(state.spec, data.info), state, "classifier"))
            scores.append(100 * accuracy(worker.predict(net, test.x), test.y))
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        print(f"| {' | '.join(cell)} | {statistics.fmean(scores):.2f} | {spread:.2f} |", flush=True)


if __name__ == "__main__":
    main()
