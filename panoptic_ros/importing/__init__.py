"""Turn other projects' checkpoints into model folders; needs the extra ``import``."""
