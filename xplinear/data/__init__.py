"""Where rows come from: blocks for full passes, shuffled mini-batches for SGD."""

from __future__ import annotations

from xplinear.data.arrays import ArrayData
from xplinear.data.protocol import Block, Data
from xplinear.data.rows import Standard
from xplinear.data.sparse import SparseData
from xplinear.data.streamed import StreamedData, data_of

__all__ = ["ArrayData", "Block", "Data", "SparseData", "Standard", "StreamedData", "data_of"]
