"""What can go wrong by a person's hand: every message is complete by itself, one or a few lines."""


class PosttrainError(Exception):
    """A fault that a person can mend; its text says what is wrong, where, and what to do.

    Shown without a traceback. Anything else that is raised is a fault of the workflow itself
    and keeps its traceback.
    """


class QuestionError(PosttrainError):
    """A questions file has a row that cannot be used. Likely: a missing or non-numeric answer."""


class PromptError(PosttrainError):
    """A prompt cannot be rendered. Likely: the model's chat template refuses a system message."""


class MaskError(PosttrainError):
    """Labels would not cover exactly the completion. Likely: tokens that straddle the boundary."""


class ModelError(PosttrainError):
    """A base model folder is incomplete or not a causal language model in safetensors."""


class AdapterError(PosttrainError):
    """An adapter is not what its receipt, its config or its base model say it is."""


class TrainingError(PosttrainError):
    """Training produced something that must not be used: zero or non-finite loss, no change."""


class ScoringError(PosttrainError):
    """The verifier failed its own test, or a score would rest on too little."""


class RolloutError(PosttrainError):
    """A file of somebody's rollouts cannot be used. Likely: another form, or other questions."""


class EngineError(PosttrainError):
    """A server of completions cannot be used. Likely: it is down, or serves another model."""


class BundleError(PosttrainError):
    """A bundle is too large to be made, or is not one that may be unpacked."""


class BusyError(PosttrainError):
    """Another run is at work in the same folder."""
