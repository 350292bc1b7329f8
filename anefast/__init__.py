"""anefast: train transformers on the Apple Neural Engine, and on its host twin anywhere."""

__version__ = "0.1.0"
