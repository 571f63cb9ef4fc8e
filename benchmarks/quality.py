"""Quality on the digits: one sorted run of the demo's config against networks trained alone, and order dependency.

Each network trained alone has the architecture of one sub-model, the same hyper-parameters and as many updates as the
sorted run. Finished trainings are kept under runs/quality, so that the command goes on where it was interrupted.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path

from measuring import context, output, write
from rich.console import Console
from torch.nn import functional

from sortednet import Setting, evaluate
from sortednet.data.images import ImageData, augment
from sortednet.experiments import order_dependency
from sortednet.jobs import images as image_job
from sortednet.jobs.configurations import read_config
from sortednet.jobs.image_config import RunConfig
from sortednet.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "quality"
SEEDS = (0, 1, 2)
SPREAD = [(1, 8), (1, 64), (2, 32), (4, 16), (4, 48), (8, 8), (8, 32), (8, 64)]


def trained(config: RunConfig, images: ImageData, name: str) -> dict[str, float]:
    """Train as a config says and return the accuracy of every setting; or read what an earlier run found."""
    result = KEPT / f"{name}.json"
    key = {"model": config.model.options, "training": config.training.__dict__, "recipe": config.recipe}
    if result.is_file() and (held := json.loads(result.read_text()))["config"] == json.loads(json.dumps(key)):
        return held["accuracy"]
    net = image_job.make_network(config, images)
    trainer = Trainer(
        net,
        image_job.make_recipe(config).stages[0].objective(net, config.training.seed, None),
        functional.cross_entropy,
        (images.train_images, images.train_labels),
        config.training,
        KEPT / name,
        transform=lambda batch, generator: (
            augment(batch[0], generator, shift=config.data.shift, flip=config.data.flip),
            batch[1],
        ),
        console=Console(quiet=True),
    )
    trainer.train(resume=False)
    table = evaluate(net, [(images.test_images, images.test_labels)], measure=())
    accuracy = {str(row.setting): row.quality for row in table}
    result.write_text(json.dumps({"config": key, "accuracy": accuracy}))
    print(name, statistics.mean(accuracy.values()), flush=True)
    return accuracy


def main() -> None:
    path = output(__doc__ or "")
    KEPT.mkdir(parents=True, exist_ok=True)
    config = read_config(ROOT / "configs" / "digits.yaml")
    images = image_job.load_data(config)
    settings = [Setting({"depth": depth, "width": width}) for depth, width in SPREAD]
    gaps: dict[str, list[float]] = {str(setting): [] for setting in settings}
    rows: list[dict] = []
    means: list[tuple[float, float]] = []
    for seed in SEEDS:
        seeded = replace(config, training=replace(config.training, seed=seed))
        ours = trained(seeded, images, f"sorted-{seed}")
        papers = trained(replace(seeded, recipe="sortednet"), images, f"papers-{seed}")
        means.append((statistics.mean(ours.values()), statistics.mean(papers.values())))
        for setting in settings:
            alone = replace(
                seeded,
                space={name: [value] for name, value in setting.items()},
                recipe="sortednet",
            )
            theirs = trained(alone, images, f"alone-{seed}-{setting}")[str(setting)]
            gaps[str(setting)].append(theirs - ours[str(setting)])
            rows.append({"seed": seed, "setting": str(setting), "alone": theirs, "sorted": ours[str(setting)]})
        rows.append({"seed": seed, "setting": "mean of 40", "sorted": means[-1][0], "one draw": means[-1][1]})
    by_seed = [statistics.mean(gaps[str(s)][place] for s in settings) for place in range(len(SEEDS))]
    full = gaps[str(settings[-1])]
    order = order_dependency.run()
    metrics = {
        "gap_to_alone": statistics.mean(by_seed),
        "gap_to_alone_sd": statistics.stdev(by_seed),
        "full_gap": statistics.mean(full),
        "full_gap_sd": statistics.stdev(full),
        "mean_accuracy": statistics.mean(ours for ours, _ in means),
        "mean_accuracy_sd": statistics.stdev(ours for ours, _ in means),
        "mean_accuracy_one_draw": statistics.mean(papers for _, papers in means),
        "mean_accuracy_one_draw_sd": statistics.stdev(papers for _, papers in means),
        "order_dependency": order["target"]["sorted"]["mean"],
        "order_dependency_reverse": order["reverse"]["sorted"]["mean"],
        "order_dependency_plain_target": order["target"]["plain"]["mean"],
        "order_dependency_plain_reverse": order["reverse"]["plain"]["mean"],
    }
    details = {
        "updates": config.training.updates,
        "batch_size": config.training.batch_size,
        "draws": image_job.make_recipe(config).options["draws"],
        "train_images": len(images.train_images),
        "test_images": len(images.test_images),
        "seeds": list(SEEDS),
        "unit": "points of test accuracy",
        "rows": rows,
        "order_dependency": order,
    }
    write(path, metrics, context(**details))


if __name__ == "__main__":
    main()
