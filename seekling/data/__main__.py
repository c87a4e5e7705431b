"""Look at data: generated documents, or what a corpus turns into.

python -m seekling.data stories 5       # five stories; also numbers, talk
python -m seekling.data default 1024    # the manifest of a corpus with a vocabulary of 1024
"""

import json
import sys

from seekling.data.generate import generate
from seekling.data.prepare import prepare
from seekling.data.sources import GENERATORS
from seekling.errors import SeeklingError


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "stories"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 3 if name in GENERATORS else 1024
    if name not in GENERATORS:
        try:
            prepared = prepare(name, vocab_size=number, progress=print)
        except SeeklingError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(json.dumps(prepared.manifest, ensure_ascii=False, indent=2))
        print(f"{prepared.seconds:.1f} s{', from the cache' if prepared.from_cache else ''}: {prepared.folder}")
        return 0
    for index in range(number):
        document = generate(name, 0, index)
        lines = [document] if isinstance(document, str) else [f"{m['role']}: {m['content']}" for m in document]
        print("\n".join(lines) + "\n---")
    return 0


sys.exit(main())
