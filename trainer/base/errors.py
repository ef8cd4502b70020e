"""The error for mistakes that users can fix."""


class ConfigError(ValueError):
    """A setting, an argument or a file is wrong; the message names it, its value and the fix."""
