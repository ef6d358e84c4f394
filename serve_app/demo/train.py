"""Training of the demo models: `python -m serve_app.demo.train`.

The recipe is CLIP's (Radford et al. 2021): a symmetric cross-entropy over a batch of pictures and
captions. `demo` also sees each scene's swapped captions as negatives (Yuksekgonul et al. 2023);
`demo-lite` does not, and is left with a bag of words, like public CLIPs.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from open_clip.model import CLIP
from rich.progress import Progress
from torch.nn import functional

from serve_app.demo import MODEL_NAMES, WEIGHTS_DIR, model_path, network, vocabulary
from serve_app.demo.batches import Batch, BatchMaker

Report = Callable[[int, float], None]

_MAX_LOGIT_SCALE: Final = 30.0
"""A cap well under CLIP's 100: the cosines themselves must tell true from false."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained."""

    swapped: bool
    steps: int
    batch: int = 64
    image_width: int = 16
    text_width: int = 96
    text_layers: int = 3
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 100
    single_steps: int = 600


RECIPES: Final = {
    "demo": Recipe(swapped=True, steps=2400),
    "demo-lite": Recipe(swapped=False, steps=1400),
}


def train(
    recipe: Recipe, output: Path, name: str, seed: int = 0, report: Report | None = None
) -> CLIP:
    """Train a model and write it.

    Args:
        recipe: How.
        output: Folder for the files; existing ones of the same name are replaced at the end.
        name: What the files are called.
        seed: Of the weights, scenes and wordings. The same seed on the same machine and with the
            same number of threads gives the same weights.
        report: Called after each step with the steps done and the loss.

    Returns:
        The trained model, in evaluation mode.
    """
    output.mkdir(parents=True, exist_ok=True)
    vocabulary.write_merges(output)
    tokenizer = vocabulary.tokenizer(output)
    torch.manual_seed(seed)
    model_cfg = network.architecture(
        tokenizer.vocab_size, recipe.image_width, recipe.text_width, recipe.text_layers
    )
    model = CLIP(**model_cfg)
    optimizer = _optimizer(model, recipe)
    maker = BatchMaker(tokenizer, recipe.batch, seed, recipe.swapped, recipe.single_steps)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        loss = contrastive_loss(model, maker.batch(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(_MAX_LOGIT_SCALE))
        if report is not None:
            report(step + 1, loss.item())
    network.save(name, model, model_cfg, output)
    return model.eval()


def contrastive_loss(model: CLIP, batch: Batch) -> torch.Tensor:
    """CLIP's symmetric loss, with swapped captions as further negatives of the pictures.

    Args:
        model: The dual encoder.
        batch: Pictures, captions, and what to leave out.

    Returns:
        The mean cross-entropy of the two directions, in nats; a scalar.
    """
    pixels = batch.pixels.float().div_(127.5).sub_(1)
    images = model.encode_image(pixels, normalize=True)
    texts = encode_text(model, batch.tokens)
    logits = model.logit_scale.exp() * images @ texts.T
    logits = logits.masked_fill(batch.ignored, float("-inf"))
    target = torch.arange(len(images))
    return (
        functional.cross_entropy(logits, target)
        + functional.cross_entropy(logits[:, : len(images)].T, target)
    ) / 2


def encode_text(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text`, normalised and less the padding.

    The text tower is causal, so nothing after a text's end can change its embedding; captions
    fill about half of the context, and the rest would cost as much again.
    """
    used = int(tokens.argmax(dim=-1).max()) + 1
    tokens = tokens[:, :used]
    x = model.token_embedding(tokens) + model.positional_embedding[:used]
    x = model.transformer(x, attn_mask=model.attn_mask[:used, :used])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
    return functional.normalize(x @ model.text_projection, dim=-1)


def _optimizer(model: CLIP, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def _schedule(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def main(
    model: Annotated[str, typer.Option(help="demo, demo-lite, or all.")] = "all",
    output: Annotated[Path, typer.Option(help="Folder for the trained files.")] = WEIGHTS_DIR,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps, if not the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, scenes and wordings.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train the demo models; minutes each on one CPU thread."""
    names = MODEL_NAMES if model == "all" else (model,)
    for name in names:
        try:
            model_path(name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--model") from None
    torch.set_num_threads(threads)
    for name in names:
        recipe = RECIPES[name]
        if steps is not None:
            recipe = Recipe(recipe.swapped, steps)
        started = time.monotonic()
        _train_visibly(recipe, output, name, seed)
        minutes = (time.monotonic() - started) / 60
        typer.echo(f"{name}: {recipe.steps} steps in {minutes:.1f} minutes, written to {output}")


def _train_visibly(recipe: Recipe, output: Path, name: str, seed: int) -> None:
    if sys.stdout.isatty():
        with Progress() as progress:
            task = progress.add_task(name, total=recipe.steps)

            def show(step: int, loss: float) -> None:
                progress.update(task, completed=step, description=f"{name}  loss {loss:.3f}")

            train(recipe, output, name, seed, show)
        return
    started = time.monotonic()

    def line(step: int, loss: float) -> None:
        if step % 50 == 0 or step in (1, recipe.steps):
            seconds = time.monotonic() - started
            typer.echo(f"{name}: step {step}/{recipe.steps} loss {loss:.3f} {seconds:.0f} s")
            sys.stdout.flush()

    train(recipe, output, name, seed, line)


if __name__ == "__main__":
    typer.run(main)
