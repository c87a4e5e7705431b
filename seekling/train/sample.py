"""Short samples while training: the beginnings of held-out documents, continued by the engine with the current weights."""

from typing import TYPE_CHECKING, Any

from seekling.model import Decoder

if TYPE_CHECKING:
    from seekling.data.prepare import Prepared

SOURCES, PROMPT_TOKENS, NEW_TOKENS = 3, 8, 48


class Sampler:
    """``sampler(step)`` continues one fixed prompt from each of the first sources; equal steps and weights give equal text."""

    def __init__(self, model: Decoder, prepared: "Prepared") -> None:
        self.model, self.tokenizer = model, prepared.tokenizer
        self.prompts = {
            name: [int(i) for i in stream.document(0)[: PROMPT_TOKENS + 1]]
            for name, stream in list(prepared.heldout.items())[:SOURCES]
            if stream.documents
        }

    def __call__(self, step: int) -> dict[str, Any]:
        """The log line's content: one entry with source, prompt and continuation for each prompt."""
        from seekling.engine import Engine, Sampling
        from seekling.lm import LM

        room = self.model.config.max_position_embeddings - PROMPT_TOKENS - 1
        settings = Sampling(max_tokens=max(1, min(NEW_TOKENS, room)), temperature=0.7, top_p=0.95, seed=step)
        training = self.model.training
        self.model.eval()
        try:
            answers = Engine(LM(self.model, self.tokenizer)).generate(list(self.prompts.values()), settings)
        finally:
            self.model.train(training)
        return {
            "samples": [
                {"source": name, "prompt": self.tokenizer.decode(ids), "text": answer.text}
                for (name, ids), answer in zip(self.prompts.items(), answers, strict=True)
            ]
        }
