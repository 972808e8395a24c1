"""Damages of files: of bytes, texts, HDF5 members, archives; each is drawn by a generator."""

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VALUES: list[Any] = [
    0,
    -1,
    1e300,
    np.nan,
    np.inf,
    2**31 - 1,
    "many",
    b"\xff\xfe",
    "",
    [1, 2, 3],
    np.zeros((2, 0)),
]
VALUES += ["[" * 3000, '{"a": [1, null]}', "1e400 keV", "furlong", np.complex64(1j), True, h5py.Empty("f4")]
SHAPES = [(), (0,), (1,), (3,), (15,), (15, 3), (2, 15), (4, 4), (5, 4), (15, 4, 4), (0, 4, 4), (3, 5, 4, 4)]
DTYPES = ["u1", "i4", "f8", "S3", "c8", "?"]
EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 65535 * 3]
HUGE = [(1000, 1000, 1000), (2**31, 4), (10**6, 10**6), (1, 2**40)]

JUNK_TEXTS = [
    "",
    "nan",
    "-1",
    "1e400",
    "9" * 400,
    "[" * 100,
    "{a: 1, a: 2}",
    "!!python/name:os.system x",
    "&a [*a]",
]
JUNK_TEXTS += [
    "null",
    "true",
    "1:30",
    "010",
    "../../../x",
    "/etc/passwd",
    '"\\ud800"',
    '"a\\0b"',
    "25 furlong",
]
JUNK_TEXTS += [
    ".inf mrad",
    "1e308 keV",
    "[]",
    "{}",
    "[1, 2]",
    "0",
    "2026-13-45",
    "!!binary aa",
    "*a",
    "\t",
    "~",
]


def damage_bytes(content: bytes, rng: np.random.Generator, head: int) -> bytes:
    """Content with one to three changes in its first bytes, or cut."""
    data = bytearray(content)
    head = min(head, len(data))
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, head))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at] = int(rng.integers(0, 256))
        elif kind == 2:
            size = int(rng.choice([1, 2, 4]))
            value = int(rng.choice(EXTREMES)) % (1 << 8 * size)
            data[at : at + size] = value.to_bytes(size, "little")
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del data[int(rng.integers(0, len(data))) :]
        if not data:
            break
        head = min(head, len(data))
    return bytes(data)


def damage_markup(content: bytes, rng: np.random.Generator) -> bytes:
    """Text with numbers changed, or parts lost, besides damaged bytes."""
    words = content.split(b">") if b"<" in content else content.split(b"\n")
    at = int(rng.integers(0, len(words)))
    kind = int(rng.integers(0, 4))
    if kind == 0:
        words[at] = b"".join(
            bytes([one]) if not 48 <= one <= 57 else rng.choice(list(b"0123456789-e.")).tobytes()[:1]
            for one in words[at]
        )
    elif kind == 1:
        del words[at]
    elif kind == 2:
        words.insert(at, words[int(rng.integers(0, len(words)))])
    else:
        return damage_bytes(content, rng, len(content))
    return (b">" if b"<" in content else b"\n").join(words)


def damage_settings(content: bytes, rng: np.random.Generator) -> bytes:
    """Lines of ``name: value`` with values replaced by junk, or damaged as any text."""
    if rng.random() < 0.35:
        return damage_markup(content, rng)
    lines = content.decode("utf-8", "replace").split("\n")
    places = [number for number, line in enumerate(lines) if ":" in line or "=" in line]
    for _ in range(int(rng.integers(1, 3))):
        if not places:
            break
        at = places[int(rng.integers(0, len(places)))]
        sign = ":" if ":" in lines[at] else "="
        name = lines[at].partition(sign)[0]
        junk = JUNK_TEXTS[int(rng.integers(0, len(JUNK_TEXTS)))]
        kind = int(rng.integers(0, 4))
        if kind == 0:
            lines.insert(at, lines[at])
        elif kind == 1:
            lines[at] = f"{name}x{sign} {junk}"
        else:
            lines[at] = f"{name}{sign} {junk}"
    return "\n".join(lines).encode("utf-8", "replace")


def damage_json(content: bytes, rng: np.random.Generator) -> bytes:
    """A JSON document with a value replaced, removed or nested, or damaged as any text."""
    try:
        tree = json.loads(content)
    except ValueError:
        return damage_bytes(content, rng, len(content))
    if rng.random() < 0.2 or not isinstance(tree, (dict, list)):
        return damage_bytes(content, rng, len(content))
    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [tree]
    while stack:
        one = stack.pop()
        for key, value in one.items() if isinstance(one, dict) else enumerate(one):
            places.append((one, key))
            if isinstance(value, (dict, list)):
                stack.append(value)
    if places:
        above, key = places[int(rng.integers(0, len(places)))]
        if rng.random() < 0.25:
            del above[key]
        else:
            junk = [None, -1, 1e999, "x", [], {}, [[[]]], True, 10**30, "\0", ["a", 1], {"tensor": 10**9}]
            above[key] = junk[int(rng.integers(0, len(junk)))]
    return json.dumps(tree).encode()


def damage_hdf5(path: Path, rng: np.random.Generator) -> None:
    """One to three changes of members and attributes, or the end cut off.

    Bits are not flipped: with some the HDF5 library itself never returns (a damaged heap of strings).
    """
    if rng.random() < 0.15:
        content = path.read_bytes()
        path.write_bytes(content[: int(rng.integers(8, len(content)))])
        return
    with h5py.File(path, "a") as file:
        for _ in range(int(rng.integers(1, 4))):
            names: list[str] = [""]
            file.visit(names.append)
            name = names[int(rng.integers(0, len(names)))]
            change_member(file, name, rng)


def change_member(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    """Replace a member or an attribute, or make it a link to nothing, a group, or something huge."""
    member: Any = file[name] if name else file
    value = VALUES[int(rng.integers(0, len(VALUES)))]
    kind = int(rng.integers(0, 7))
    attrs = list(member.attrs)
    if kind <= 1 and attrs:
        key = attrs[int(rng.integers(0, len(attrs)))]
        if rng.random() < 0.3:
            del member.attrs[key]
        else:
            member.attrs[key] = value
    elif kind == 2:
        member.attrs["units"] = value
    elif name:
        shape = SHAPES[int(rng.integers(0, len(SHAPES)))]
        del file[name]
        if kind == 3:
            file[name] = (
                h5py.ExternalLink("nothing.h5", "/a") if rng.random() < 0.5 else h5py.SoftLink("/nothing")
            )
        elif kind == 4:
            file.create_group(name)
        elif kind == 5:
            file[name] = value
        else:
            file[name] = np.zeros(shape, DTYPES[int(rng.integers(0, 6))])


def damage_own_hdf5(path: Path, rng: np.random.Generator) -> None:
    """As `damage_hdf5`, and what only our own files can be asked to stand: values, JSON texts, huge sizes."""
    kind = int(rng.integers(0, 6))
    if kind < 2:
        damage_hdf5(path, rng)
        return
    with h5py.File(path, "a") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        if not found:
            return
        name = found[int(rng.integers(0, len(found)))]
        if kind == 2:
            del file[name]
            shape = HUGE[int(rng.integers(0, len(HUGE)))]
            file.create_dataset(name, shape, "f4", chunks=tuple(min(n, 64) for n in shape))
        elif kind == 3:
            _spoil_values(file, name, rng)
        else:
            _spoil_text(file, [one for one in found if file[one].dtype.kind == "O"], rng)


def _spoil_values(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    data: Any = file[name]
    if data.shape is None or data.dtype.kind not in "iufc" or not data.size:
        return
    values = np.array(data[()])
    flat = values.reshape(-1)
    extremes = [np.nan, np.inf, 0, -1, 1e300, 1e-300] if values.dtype.kind in "fc" else [0, -1, 2**31 - 1]
    share = 1.0 if rng.random() < 0.5 else 1 / max(1, flat.size)
    places = rng.random(flat.size) < share
    places[int(rng.integers(0, flat.size))] = True
    with np.errstate(all="ignore"):
        flat[places] = np.array(extremes[int(rng.integers(0, len(extremes)))]).astype(values.dtype)
    data[()] = values


def _spoil_text(file: h5py.File, names: list[str], rng: np.random.Generator) -> None:
    if not names:
        return
    name = names[int(rng.integers(0, len(names)))]
    data: Any = file[name]
    if data.shape != ():
        return
    text = data.asstr()[()]
    made = damage_json(text.encode(), rng).replace(b"\0", b"")
    del file[name]
    file[name] = made.decode("utf-8", "replace")


def damage_npy(content: bytes, rng: np.random.Generator) -> bytes:
    """An ``.npy`` file whose header declares something else, or damaged bytes."""
    if rng.random() < 0.4:
        return damage_bytes(content, rng, 128)
    end = 10 + int.from_bytes(content[8:10], "little")
    header = content[10:end].decode("latin1")
    swaps = [("(", "(1000000, "), ("(", "(-"), ("<u2", "|O"), ("<f8", "<c16"), ("descr", "d"), ("}", "")]
    swaps += [
        ("False", "True"),
        ("False", "9"),
        ("(", "(" * 50),
        ("'", '"'),
        ("<", ">"),
        (",", ""),
        ("shape", "fortran"),
    ]
    old, new = swaps[int(rng.integers(0, len(swaps)))]
    made = header.replace(old, new, 1).encode("latin1")
    return content[:8] + len(made).to_bytes(2, "little") + made + content[end:]


def damage_archive(path: Path, rng: np.random.Generator) -> None:
    """A zip archive (``.npz``) with a member damaged, lost or doubled, or damaged itself."""
    if rng.random() < 0.35:
        content = path.read_bytes()
        path.write_bytes(damage_bytes(content, rng, len(content)))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[int(rng.integers(0, len(members)))]
    kind = int(rng.integers(0, 4))
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[f"../{name}"] = members.pop(name)
    else:
        members[name] = damage_npy(members[name], rng)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, content in members.items():
            archive.writestr(one, content)


def damage_safetensors(content: bytes, rng: np.random.Generator) -> bytes:
    """A network file with its header, its metadata or its weights changed."""
    size = int.from_bytes(content[:8], "little")
    header, weights = content[8 : 8 + size], bytearray(content[8 + size :])
    kind = int(rng.integers(0, 5))
    if kind == 0:
        return damage_bytes(content, rng, min(len(content), size + 8))
    if kind == 1:
        value = [np.nan, np.inf, 0.0, 1e38][int(rng.integers(0, 4))]
        count = len(weights) // 4
        share = 1.0 if rng.random() < 0.5 else 2 / count
        numbers = np.frombuffer(bytes(weights[: 4 * count]), "<f4").copy()
        numbers[rng.random(count) < share] = value
        return content[: 8 + size] + numbers.tobytes() + bytes(weights[4 * count :])
    tree = json.loads(header)
    about = tree["__metadata__"]["phaseloom"]
    if kind == 2:
        made = damage_json(about.encode(), rng).decode("utf-8", "replace")
        tree["__metadata__"]["phaseloom"] = made
    elif kind == 3:
        table = json.loads(about)
        knobs = table.get("knobs") or {"width": 1}
        name = list(knobs)[int(rng.integers(0, len(knobs)))]
        junk = [10**9, -1, 0, "x", None, 1e9, [1], [10**6] * 100, True, 2**70]
        junk += [{"network": "tiny", "knobs": {}}]
        table["knobs"] = {**knobs, name: junk[int(rng.integers(0, len(junk)))]}
        tree["__metadata__"]["phaseloom"] = json.dumps(table)
    else:
        names = [name for name in tree if name != "__metadata__"]
        one = tree[names[int(rng.integers(0, len(names)))]]
        key = ["dtype", "shape", "data_offsets"][int(rng.integers(0, 3))]
        junk = ["F64", [10**9, 10**9], [-1, 5], None, [0, 10**12], [], "x"]
        one[key] = junk[int(rng.integers(0, len(junk)))]
    made = json.dumps(tree).encode()
    made += b" " * (-len(made) % 8)
    return len(made).to_bytes(8, "little") + made + bytes(weights)
