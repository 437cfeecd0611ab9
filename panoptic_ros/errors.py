"""The errors this package raises on bad input, one class per thing that can be bad.

Every message names the value that came, what was expected and the way out, in one sentence.
"""


class PanopticRosError(Exception):
    """Base of all errors that a user of the package can cause and mend."""


class FrameError(PanopticRosError):
    """One camera frame, or one message, cannot be used; the next may be good."""


class LabelSetError(PanopticRosError):
    """A label set is missing, malformed, or does not fit the model or data at hand."""


class ModelError(PanopticRosError):
    """A model folder is missing, incomplete, corrupt or of an unknown kind."""


class EngineError(PanopticRosError):
    """No inference engine can run the model, or the engine failed."""


class DatasetError(PanopticRosError):
    """A data set on disk is missing, incomplete or contradicts itself."""


class SourceError(PanopticRosError):
    """A camera, video, picture or folder of pictures is missing or cannot be read."""


class BagError(PanopticRosError):
    """A recording is missing, empty, damaged or of an unknown kind, or cannot be written."""


def one_line(error: object) -> str:
    """Return the text of an error as one line of at most 300 characters; its class if empty."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:300]}...'
