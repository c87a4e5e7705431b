"""``seekling sft --show-mask``: conversations as the model will see them, what is learned from in colour."""

from itertools import groupby
from typing import Any

from seekling.data.conversations import read_conversations
from seekling.data.packed_conversations import examples_of
from seekling.errors import RecipeError
from seekling.lm import load_tokenizer
from seekling.train.sft_recipe import SftRecipe


def show_mask(recipe: SftRecipe, count: int, console: Any = None) -> None:
    """Print the first ``count`` conversations; targets are green, everything else dim.

    Without colours (a pipe, NO_COLOR) targets stand between ⟦ and ⟧.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False, soft_wrap=True)
    plain = console.no_color or not console.is_terminal
    if not recipe.start.model:
        raise RecipeError("--model names the tokenizer to show the conversations with")
    tokenizer = load_tokenizer(recipe.start.model)
    for talk in read_conversations(recipe.talks.data)[:count]:
        for example in examples_of(tokenizer, talk):
            line = Text()
            for learned, group in groupby(zip(example.ids.tolist(), example.targets.tolist(), strict=True), lambda p: p[1]):
                text = tokenizer.decode([i for i, _ in group], skip_special=False)
                if plain:
                    text = f"⟦{text}⟧" if learned else text
                line.append(text, style="" if plain else ("bold green" if learned else "dim"))
            console.print(f"{example.where}: {len(example)} tokens, {int(example.targets.sum())} learned", style="cyan")
            console.print(line)
