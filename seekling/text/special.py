"""Control tokens: DeepSeek's marks in the order of their ids in a tokenizer trained here (0, 1, 2, …)."""

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
THINK_END = "</think>"
FIM_BEGIN = "<｜fim▁begin｜>"
FIM_HOLE = "<｜fim▁hole｜>"
FIM_END = "<｜fim▁end｜>"
CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
OUTPUTS_BEGIN = "<｜tool▁outputs▁begin｜>"
OUTPUTS_END = "<｜tool▁outputs▁end｜>"
OUTPUT_BEGIN = "<｜tool▁output▁begin｜>"
OUTPUT_END = "<｜tool▁output▁end｜>"
TOOL_SEP = "<｜tool▁sep｜>"
DSML = "｜DSML｜"  # V3.2 and V4 only
LATEST_REMINDER = "<｜latest_reminder｜>"  # V4 only

# Marks of structure are left out of decoded text. The others belong to what the model says: a reader of the answer must see
# where the thinking ends and where a tool call begins, so they stay in the text (as in DeepSeek's own tokenizers).
STRUCTURE = (BOS, EOS, PAD, USER, ASSISTANT, FIM_BEGIN, FIM_HOLE, FIM_END)

CONTROL = (
    BOS,
    EOS,
    PAD,
    USER,
    ASSISTANT,
    THINK,
    THINK_END,
    FIM_BEGIN,
    FIM_HOLE,
    FIM_END,
    CALLS_BEGIN,
    CALLS_END,
    CALL_BEGIN,
    CALL_END,
    OUTPUTS_BEGIN,
    OUTPUTS_END,
    OUTPUT_BEGIN,
    OUTPUT_END,
    TOOL_SEP,
)


class Mark(str):
    """A control token by its text, as opposed to text that merely looks like one."""

    __slots__ = ()


def is_control(token: dict) -> bool:
    """Whether an entry of ``added_tokens`` is a control mark that no text may become.

    Special ones are, and those of a mark's shape (``<think>``, ``<｜User｜>``, ``]~b]``). What is left are plain characters
    that some vocabularies add (``ü``, runs of blanks): they are ordinary text.
    """
    return bool(token.get("special")) or any(c in "<>[]|｜" for c in token["content"])
