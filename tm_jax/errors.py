"""What every part raises for bad input; apart, so that reading flags needs no JAX."""


class InputError(ValueError):
    """Bad input from outside: the message is one sentence that names the input, the fault and the remedy.

    Command-line entry points print it without a traceback and exit with status 2.
    """
