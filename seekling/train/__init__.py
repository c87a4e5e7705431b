"""Training: one loop (`loop`), what it minimises (`loss`), how it steps (`optim`, `precision`, `schedule`), what it keeps
(`state`, `log`, `rundir`) and how it is judged (`evaluate`, `sample`). `pretrain` is the first user of the loop.
"""
