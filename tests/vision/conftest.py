"""What several vision tests use."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def png():
    """Encoded image from an array."""
    from io import BytesIO

    def encode(array):
        file = BytesIO()
        Image.fromarray(np.asarray(array, dtype=np.uint8)).save(file, "png")
        return file.getvalue()

    return encode


@pytest.fixture
def parquet_folder(tmp_path, png):
    """Writes a folder of train.parquet and test.parquet; returns it and the arrays."""

    def write(train_labels, test_labels, *, shape=(6, 6, 3), label="label", image="img", **kw):
        rng = np.random.default_rng(0)
        arrays = {}
        for part, labels in (("train", train_labels), ("test", test_labels)):
            arrays[part] = rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
            cells = [{"bytes": png(a), "path": None} for a in arrays[part]]
            table = pa.table({image: cells, label: labels})
            pq.write_table(table, tmp_path / f"{part}.parquet", **kw)
        return tmp_path, arrays

    return write
