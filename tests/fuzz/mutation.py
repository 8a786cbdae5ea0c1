"""Damaged copies of valid bytes."""

from hypothesis import strategies as st


@st.composite
def mutated(draw: st.DrawFn, valid: bytes, tokens: tuple[bytes, ...] = ()) -> bytes:
    """`valid` after one to six edits: bytes overwritten, inserted, cut out, doubled, or a token put in."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        edit = draw(
            st.sampled_from(["overwrite", "insert", "cut", "double", "truncate", *(["token"] if tokens else [])])
        )
        if edit == "overwrite":
            data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif edit == "insert":
            data[start:start] = draw(st.binary(min_size=1, max_size=8))
        elif edit == "cut":
            del data[start:end]
        elif edit == "double":
            data[start:start] = data[start:end]
        elif edit == "truncate" and draw(st.integers(0, 9)) == 0:
            del data[start:]
        elif edit == "token":
            data[start : start + draw(st.integers(0, 2))] = draw(st.sampled_from(tokens))
    return bytes(data)
