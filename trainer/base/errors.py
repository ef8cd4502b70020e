"""The errors that users are told of in a line."""

import signal


class ConfigError(ValueError):
    """A setting, an argument or a file is wrong; the message names it, its value and the fix."""


class WriteError(ConfigError):
    """A file cannot be written: the disk is full, read-only or broken. What was there before is still there."""


class Outage(Exception):
    """A server has not answered for as long as the settings allow; the message names it. Trying later may help."""


class Stopped(KeyboardInterrupt):
    """A signal has asked for an end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class ServerWarning(UserWarning):
    """Something is wrong with a server, but the work goes on."""
