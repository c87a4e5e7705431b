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
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
)
