"""The errors that users are told of in a line."""


class ConfigError(ValueError):
    """A setting, an argument or a file is wrong; the message names it, its value and the fix."""


class Outage(Exception):
    """A server has not answered for as long as the settings allow; the message names it. Trying later may help."""


class ServerWarning(UserWarning):
    """Something is wrong with a server, but the work goes on."""
