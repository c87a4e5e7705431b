"""Attacks on a served model, each with an expectation a program can check; ``seekling redteam URL`` runs them."""
