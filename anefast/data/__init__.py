"""Text to token stream to batches: where the data comes from, how it splits, which step reads what.

Not here: tokenizers (tokenizer/), the stories themselves (stories/), sequence lengths a device
takes (config/). The stream is BOS before each document, documents end to end. Read on in the
order of the data: source.py, text.py and shards.py, stream.py, batches.py; reading.py joins them.
"""

from anefast.data.batches import Batches, Epoch, ExampleData, Order, TokenData
from anefast.data.error import DataError
from anefast.data.reading import STORIES, open_data
from anefast.data.stream import Ids, TokenStream
from anefast.data.text import END_OF_TEXT

__all__ = [
    "END_OF_TEXT",
    "STORIES",
    "Batches",
    "DataError",
    "Epoch",
    "ExampleData",
    "Ids",
    "Order",
    "TokenData",
    "TokenStream",
    "open_data",
]
