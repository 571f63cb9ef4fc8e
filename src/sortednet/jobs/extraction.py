"""Write a sub-model of a trained run as an ordinary model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, SettingError
from ..files.run_folder import CONFIG, refuse_links
from ..files.saving import saving
from ..files.weights import EXTRACTED, SETTING, WEIGHTS
from ..imports.packages import needs
from ..space import Setting
from .configurations import read_config
from .fine_tuning_config import FineTuningConfig
from .selection import check_trained, chosen_in, in_run

with needs("A command", "cli"):
    from rich.console import Console

__all__ = ["extract"]


def extract(
    run: str,
    setting: str,
    console: Console,
    *,
    output: str | None = None,
    onnx: bool = False,
    form: Literal["plain", "baked"] = "plain",
    server: str | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Write a sub-model, or where the run trained an adapter the adapter.

    Args:
        run: The run's folder.
        setting: The sub-model, such as `depth=4,width=32`, or the label of a selection.
        console: Where it is told.
        output: The folder; `RUN/extracted/SETTING` where left out.
        onnx: Whether to export it to ONNX too.
        form: Of an adapter, see `sortednet.save_adapter`.
        server: Of an adapter, see `sortednet.save_adapter`.
        trust: Modules that the run's configuration may name besides your own, such as `torchvision`.

    Raises:
        ConfigError: If the run is not trained, or the form or the server is given for no adapter.
        SettingError: If there is no such sub-model.
    """
    config = read_config(in_run(run, CONFIG, "sortednet train"))
    check_trained(run, CONFIG)
    space = config.make_space()
    labels = chosen_in(run)
    try:
        chosen = labels.get(setting) or space.setting(**Setting.parse(setting))
    except SettingError as error:
        if "=" in setting:
            raise
        known = f"those of {run} are {', '.join(labels)}" if labels else f"{run} has none: sortednet select {run} ..."
        raise SettingError(f"{setting!r} is neither a setting nor the label of a selection; {known}.") from error
    folder = Path(output) if output else Path(run) / "extracted" / str(chosen)
    if not output:
        refuse_links(folder.parent, folder)
    has_adapter = isinstance(config, FineTuningConfig) and config.adapter is not None
    if not has_adapter and (form != "plain" or server is not None):
        raise ConfigError(f"--form and --server are for an adapter, and {run} trained none. Leave them out.")
    if isinstance(config, FineTuningConfig):
        from . import fine_tuning_extraction as extraction

        for line in extraction.extract(config, Path(run), chosen, folder, form=form, server=server, onnx=onnx):
            console.print(line)
        return
    from ..export.onnx import to_onnx
    from ..network.checkpoint import write_tensors
    from ..training.recipes import plain
    from . import images as image_job

    images, net = image_job.open_run(config, Path(run), trust)
    model = plain(net.extract(chosen)).eval().cpu()
    with saving(folder, EXTRACTED) as save:
        with save.opened(WEIGHTS) as file:
            write_tensors(file, model.state_dict())
        save.write(SETTING, json.dumps(dict(chosen)).encode())
        if onnx:
            difference = to_onnx(model, images.test_images[:2], save.beside / "model.onnx")
    parameters = sum(one.numel() for one in model.parameters())
    console.print(
        f"Wrote {type(model).__name__} at {chosen}, {parameters:,} parameters: {folder / 'model.safetensors'}"
    )
    if onnx:
        console.print(f"Wrote {folder / 'model.onnx'}; onnxruntime differs by {difference:.1e} at most.")
