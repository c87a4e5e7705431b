"""Started by test_chat.py on a terminal of its own: a chat with a model that slowly says a fixed text."""

import sys
import time
from types import SimpleNamespace

from engine_tiny import EOS, TOKENIZER, Script, config

from seekling.engine.chat import chat_loop
from seekling.engine.sampling import Sampling


class Slow(Script):
    """Says its text again for every question: the answer begins at whatever length the prompt has.

    With ``first_slows`` the first answer would take half a minute, so that whoever stops it is never too late.
    """

    first_slows, answers = False, 0

    def extend(self, ids_BT, cache, rows, trace=None):
        if ids_BT.shape[1] > 1:
            self.prompt_length = cache.lengths[rows[0]] + ids_BT.shape[1]
            self.answers += 1
        begun = cache.lengths[rows[0]] > self.prompt_length + 20
        time.sleep(0.5 if self.first_slows and self.answers == 1 and begun else 0.02)
        return super().extend(ids_BT, cache, rows)


def saying(ids, **changes):
    """A loaded model that answers every question with these ids."""
    return SimpleNamespace(
        tokenizer=TOKENIZER, config=config(**({"max_position_embeddings": 400} | changes)), model=Slow([*ids, EOS], 1)
    )


if __name__ == "__main__":
    lm = saying(TOKENIZER.encode(sys.argv[1]))
    lm.model.first_slows = True
    sys.exit(chat_loop(lm, Sampling(max_tokens=200, temperature=0)))
