"""Training of the demo models: `python -m serve_app.demo.train`.

The recipe is CLIP's (Radford et al. 2021): a symmetric cross-entropy over a batch of pictures and
captions. `demo` also sees each scene's swapped captions as negatives (Yuksekgonul et al. 2023);
`demo-lite` does not, and is left with a bag of words, like public CLIPs.

Before that, and on the side all the while, the towers have `lessons`. The first stages of the
image tower learn to see: which shape and colour is where, on pictures full of things. Captions
alone teach a shape hundreds of steps later. For `demo`, the text tower learns to read: what a
caption puts at which side. Without that, swapped captions teach nothing for thousands of steps:
each tower would have to keep apart what belongs together, and neither gains by it as long as the
other does not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from open_clip.model import CLIP
from rich.progress import Progress
from torch.nn import functional

from serve_app.demo import MODEL_NAMES, WEIGHTS_DIR, model_path, network, vocabulary
from serve_app.demo.batches import BatchMaker, crowds
from serve_app.demo.lessons import Pictures, Reading, Sight

Report = Callable[[int, float], None]

_MAX_LOGIT_SCALE: Final = 30.0
"""A cap well under CLIP's 100: the cosines themselves must tell true from false."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Attributes:
        swapped: Whether swapped captions are negatives, and reading is taught.
        steps: Steps on pictures and captions.
        seeing_steps: Steps before them on pictures alone.
        reading_steps: Steps before them on captions alone.
        batch: Pictures in a step.
        learning_rate: The highest, on pictures and captions.
        seeing_rate: The highest, on pictures alone.
        reading_rate: The highest, on captions alone.
        seeing_weight: Of the loss on what is where, beside that on captions.
        reading_weight: Of the loss on what an embedding tells of the sides.
        weight_decay: On pictures and captions.
        warmup: Steps until the learning rate is the highest.
    """

    swapped: bool
    steps: int
    seeing_steps: int = 600
    reading_steps: int = 600
    batch: int = 64
    learning_rate: float = 2e-3
    seeing_rate: float = 3e-3
    reading_rate: float = 1e-3
    seeing_weight: float = 0.5
    reading_weight: float = 1.0
    weight_decay: float = 0.05
    warmup: int = 100

    @property
    def all_steps(self) -> int:
        """Steps altogether."""
        return self.seeing_steps + self.reading_steps * self.swapped + self.steps


RECIPES: Final = {
    "demo": Recipe(swapped=True, steps=2400),
    "demo-lite": Recipe(swapped=False, steps=1500),
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
    model_cfg = network.architecture(tokenizer.vocab_size)
    model = CLIP(**model_cfg)
    training = _Training(model, recipe, BatchMaker(tokenizer, recipe.batch, seed, recipe.swapped))
    for done, loss in enumerate(training.losses(seed), 1):
        if report is not None:
            report(done, loss)
    network.save(name, model, model_cfg, output)
    return model.eval()


class _Training:
    """The steps of one training run; the readers of the lessons live as long as it does."""

    def __init__(self, model: CLIP, recipe: Recipe, maker: BatchMaker) -> None:
        self._model, self._recipe, self._maker = model, recipe, maker
        self._sight = Sight(model)
        self._reading = Reading(model.text_projection.shape[1])

    def losses(self, seed: int) -> Iterator[float]:
        """Trains; yields the loss of each step."""
        yield from self._see(seed)
        if self._recipe.swapped:
            yield from self._read()
        yield from self._match()

    def _see(self, seed: int) -> Iterator[float]:
        recipe, sight = self._recipe, self._sight
        parameters = sight.own_parameters()
        optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02)
        for step in range(recipe.seeing_steps):
            _set_rate(optimizer, recipe.seeing_rate, step, recipe.seeing_steps, recipe.warmup // 2)
            pictures = crowds(seed, step, recipe.batch)
            loss = sight.loss(sight.stages(_scaled(pictures)), pictures)
            _step(optimizer, loss, parameters)
            yield loss.item()

    def _read(self) -> Iterator[float]:
        recipe, model, reading = self._recipe, self._model, self._reading
        tower = [
            p for name, p in model.named_parameters() if not name.startswith(("visual", "logit"))
        ]
        parameters = [*tower, *reading.parameters()]
        optimizer = _optimizer(parameters, recipe)
        for step in range(recipe.reading_steps):
            _set_rate(optimizer, recipe.reading_rate, step, recipe.reading_steps, recipe.warmup)
            tokens, claimed = self._maker.captions(step, 2 * recipe.batch)
            loss = reading.loss(encode_text(model, tokens), claimed)
            _step(optimizer, loss, parameters)
            yield loss.item()

    def _match(self) -> Iterator[float]:
        recipe, model, sight, reading = self._recipe, self._model, self._sight, self._reading
        parameters = [*model.parameters(), *sight.readers()]
        if recipe.swapped:
            parameters += reading.parameters()
        optimizer = _optimizer(parameters, recipe)
        for step in range(recipe.steps):
            _set_rate(optimizer, recipe.learning_rate, step, recipe.steps, recipe.warmup)
            batch = self._maker.batch(step)
            # One way through the stages serves both losses.
            seen = sight.stages(_scaled(batch.pictures))
            images = functional.normalize(sight.rest(seen), dim=-1)
            texts = encode_text(model, batch.tokens)
            loss = contrastive_loss(images, texts, model.logit_scale.exp(), batch.ignored)
            total = loss + recipe.seeing_weight * sight.loss(seen, batch.pictures)
            if recipe.swapped:
                read = reading.loss(images, batch.shown) + reading.loss(texts, batch.claimed)
                total = total + recipe.reading_weight * read
            _step(optimizer, total, parameters)
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(_MAX_LOGIT_SCALE))
            yield loss.item()


def _step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: Sequence[torch.nn.Parameter]
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _scaled(pictures: Pictures) -> torch.Tensor:
    """As the preprocessing's last step does it: -1 to 1."""
    return pictures.pixels.float().div_(127.5).sub_(1)


def _set_rate(
    optimizer: torch.optim.Optimizer, highest: float, step: int, steps: int, warmup: int
) -> None:
    """A short rise, then half a cosine."""
    if step < warmup:
        share = (step + 1) / warmup
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = highest * share


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, ignored: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric loss, with swapped captions as further negatives of the pictures.

    Args:
        images: Unit vectors, float32 of shape (n, dimension).
        texts: Unit vectors of shape (n + m, dimension): the n true captions, then m swapped ones.
        scale: What cosines are multiplied by; a scalar.
        ignored: Bool of shape (n, n + m), true where a caption must not count as a negative.

    Returns:
        The mean cross-entropy of the two directions, in nats; a scalar.
    """
    logits = (scale * images @ texts.T).masked_fill(ignored, float("-inf"))
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


def _optimizer(parameters: Sequence[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def main(
    model: Annotated[str, typer.Option(help="demo, demo-lite, or all.")] = "all",
    output: Annotated[Path, typer.Option(help="Folder for the trained files.")] = WEIGHTS_DIR,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps on captions, if not the recipe's.")
    ] = None,
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
            recipe = replace(recipe, steps=steps)
        started = time.monotonic()
        _train_visibly(recipe, output, name, seed)
        minutes = (time.monotonic() - started) / 60
        typer.echo(
            f"{name}: {recipe.all_steps} steps in {minutes:.1f} minutes, written to {output}"
        )


def _train_visibly(recipe: Recipe, output: Path, name: str, seed: int) -> None:
    if sys.stdout.isatty():
        with Progress() as progress:
            task = progress.add_task(name, total=recipe.all_steps)

            def show(step: int, loss: float) -> None:
                progress.update(task, completed=step, description=f"{name}  loss {loss:.3f}")

            train(recipe, output, name, seed, show)
        return
    started = time.monotonic()

    def line(step: int, loss: float) -> None:
        if step % 50 == 0 or step in (1, recipe.all_steps):
            seconds = time.monotonic() - started
            typer.echo(f"{name}: step {step}/{recipe.all_steps} loss {loss:.3f} {seconds:.0f} s")
            sys.stdout.flush()

    train(recipe, output, name, seed, line)


if __name__ == "__main__":
    typer.run(main)
