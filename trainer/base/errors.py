"""The one kind of error that is the user's to mend."""


class ConfigError(ValueError):
    """A setting, an argument or a file is wrong; the message names it, its value and the fix."""
