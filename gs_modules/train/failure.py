"""What ends a command before it is done."""


class CommandError(Exception):
    """Says in words for a person why a command ends, and with which exit code.

    0 is done, 1 files, a server or another process, 2 a wrong config or command line, 3 data, 4 a
    loss that is not finite, 130 and 143 a stop by Ctrl-C and SIGTERM after saving.
    """

    exit_code = 1
