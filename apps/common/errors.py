"""What a command says when it cannot go on: one sentence, and an exit status."""


class BadInput(Exception):
    """Somebody's input cannot be used; the message names it and says what to do."""

    exit_status = 2


class ExportRefused(Exception):
    """An exported model broke one of its bounds, so nothing was published."""

    exit_status = 1
