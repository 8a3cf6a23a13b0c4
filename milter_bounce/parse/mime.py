"""Reader of a whole message: its header fields and the parts of its body.

Goes in: the bytes of one message, however broken. Comes out: `Message`, the
header fields in order and the leaf parts in order, each with the number of
``message/rfc822`` envelopes around it. Does not: decode what nobody asks for
(`Part.text` does it on demand), check a signature, or keep attachments.

The walk is iterative and looks at lines that begin with ``--`` only, so its
time grows with the size of the message and not with nesting or part count.

Section: RFC 2045 to 2047, RFC 2231 (parameters), RFC 5322 2.2 (fields).
Limits: `SIZE_LIMIT`, `PART_LIMIT`, `DEPTH_LIMIT`, `FIELD_LIMIT`, `DELIMITER_LIMIT`, `TEXT_LIMIT`.
Raises: nothing, on any bytes.
"""

from __future__ import annotations

import binascii
import quopri
import re
from typing import Final, NamedTuple

from milter_bounce import limits

from .header import Fields, parameter, parse_fields

SIZE_LIMIT: Final = limits.MESSAGE_BYTES
PART_LIMIT: Final = limits.MIME_PARTS
DEPTH_LIMIT: Final = limits.MIME_DEPTH
HEADER_LIMIT: Final = limits.HEADER_BYTES
DELIMITER_LIMIT: Final = limits.MIME_DELIMITERS
GUESS_LIMIT: Final = limits.MIME_GUESSES
TEXT_LIMIT: Final = limits.PART_BYTES

_CONTENT_TYPE = re.compile(r"\s*\"?([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)")
_LOST_BOUNDARY = re.compile(
    rb"^[ ]?--([^\s-][^\n]{0,200}?|-{1,60}[^\n]{1,200}?)[ \t]{0,20}\n(?i:content-[a-z-]+)[ \t]*:", re.MULTILINE
)
_PADDED_LINE = re.compile(rb"\n[ \t]{1,80}\n")
_FIELD_LINE = re.compile(rb"[!-9;-~]{1,100}[ \t]*:|[ \t]")
_CONTENT_ONLY = re.compile(rb"(?i:content-)[^\n]*(?:\n(?:(?i:content-)|[ \t])[^\n]*)*")
# a line of base64, and a whole body of it that nothing declares (RFC 2045 6.8: lines of at most 76)
_BASE64_LINE = re.compile(rb"\s*[A-Za-z0-9+/]+={0,2}[ \t]*(?:\n|\Z)")
_BASE64_BODY = re.compile(rb"\s*(?:[A-Za-z0-9+/]{60,76}\n){1,20000}[A-Za-z0-9+/]{0,76}={0,2}\s*")
_BASE64_JUNK = re.compile(rb"[^A-Za-z0-9+/=]+")
_ENVELOPED: Final = frozenset({"message/rfc822", "message/global", "message/news"})


class Part(NamedTuple):
    """One leaf of the message, or the header of an enveloped message (type ``message/rfc822``, no body)."""

    fields: Fields
    type: str
    """Media type in lower case; ``text/plain`` where none is stated (RFC 2045, 5.2)."""

    body: bytes
    depth: int
    """How many messages it is wrapped in: 0 = part of the message itself."""

    parent: str
    """Media type of the multipart around it; empty for the only part."""

    def text(self) -> str:
        """Return the body as text, transfer encoding and charset undone.

        Limits: the first `TEXT_LIMIT` bytes.
        """
        return decode_text(transfer_decoded(self), parameter(self.fields.get("content-type"), "charset"))


class Message(NamedTuple):
    """One message, read as far as the limits allow."""

    fields: Fields
    type: str
    parts: tuple[Part, ...]
    defects: tuple[str, ...] = ()


class _Open(NamedTuple):
    """A multipart that the walk is inside of."""

    boundary: bytes
    type: str
    depth: int


def read_message(data: bytes) -> Message:
    """Return the header fields and the leaf parts of a message."""
    defects = ["cut-at-size-limit"] if len(data) > SIZE_LIMIT else []
    data = _framed(data[:SIZE_LIMIT])
    fields, start = header_at(data, _skip_leading(data))
    walk = _Walk(data, defects)
    walk.run(fields, start)
    return Message(fields, media_type(fields), tuple(walk.parts), tuple(dict.fromkeys(defects)))


def _framed(data: bytes) -> bytes:
    """Return normalised bytes behind one line feed, so that every line, the first too, begins after one."""
    return b"\n" + normalised(data)


def normalised(data: bytes) -> bytes:
    """Return the bytes with every line end as a line feed, UTF-16 as UTF-8 and without NULs."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or (data[:200].count(0) > 60 and b"\0\n" in data[:2000] + b"\n"):
        data = _utf16_as_utf8(data)
    if b"\r" in data:
        # CR CR LF: a text that was given its line ends twice
        data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data


def _utf16_as_utf8(data: bytes) -> bytes:
    """Return a message that was stored as UTF-16 as what it was before (Windows tools save mail that way)."""
    order = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else ("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    return data.decode(order, "replace").encode("utf-8", "replace")


def _skip_leading(data: bytes) -> int:
    """Return where the header begins: after blank lines, a byte order mark and an mbox ``From `` line."""
    at = 4 if data.startswith(b"\xef\xbb\xbf", 1) else 1
    while data[at : at + 1] in {b"\n", b" ", b"\t"}:
        at += 1
    return _after_mbox_line(data, at)


def _after_mbox_line(data: bytes, at: int) -> int:
    """Return where the header begins behind a ``From `` line that some gateways write before it."""
    if data.startswith((b"From ", b">From "), at):
        end = data.find(b"\n", at)
        return len(data) if end < 0 else end + 1
    return at


def header_at(data: bytes, start: int, delimiters: dict[bytes, int] | None = None) -> tuple[Fields, int]:
    """Return the header fields that begin at `start` and where the body after them begins.

    A header that runs into a delimiter ends there: its part has no body.
    """
    if data.startswith(b"\n", start):
        return Fields(()), start + 1
    stop = min(len(data), start + HEADER_LIMIT)
    blank = data.find(b"\n\n", start, stop)
    block, body = (data[start:blank], blank + 2) if blank >= 0 else (data[start:stop], stop)
    padded = _padded_end(block)
    if padded:
        block, body = block[: padded[0]], start + padded[1]
    if delimiters and (b"\n--" in block or block.startswith(b"--")):
        at = 0
        for line in block.split(b"\n"):
            if line.startswith(b"--") and line[2:].rstrip() in delimiters:
                return parse_fields(block[:at]), start + at
            at += len(line) + 1
    return parse_fields(block), body


def _padded_end(block: bytes) -> tuple[int, int] | None:
    """Return where a header ends and its body begins, where blanks pad the empty line between them; None for nowhere.

    A line of blanks may also continue a field (RFC 5322 4.2): it ends the header where no field follows, or where
    only Content- fields came before and another kind of line follows.
    """
    for number, found in enumerate(_PADDED_LINE.finditer(block)):
        if number == GUESS_LIMIT:
            break
        if not _FIELD_LINE.match(block, found.end()) or (
            _CONTENT_ONLY.fullmatch(block, 0, found.start())
            and block[found.end() : found.end() + 8].lower() != b"content-"
        ):
            return found.start(), found.end()
    return None


def media_type(fields: Fields) -> str:
    """Return the media type that the fields state, in lower case; ``text/plain`` for none or nonsense."""
    value = fields.get("content-type")
    found = _CONTENT_TYPE.match(value) if value else None
    return found[1].lower() if found else "text/plain"


class _Walk:
    """The state of one walk over a body: which multiparts are open, and the parts found."""

    def __init__(self, data: bytes, defects: list[str]) -> None:
        self.data = data
        self.defects = defects
        self.parts: list[Part] = []
        self.open: list[_Open] = []
        self.delimiters: dict[bytes, int] = {}
        self.entities = self.lines = self.guesses = 0

    def run(self, fields: Fields, start: int) -> None:
        """Read the entity whose body begins at `start`, and all after it."""
        at = self.entity(fields, start, 0)
        while at is not None:
            if self.entities >= PART_LIMIT:
                self.defects.append("cut-at-part-limit")
                break
            depth = self.open[-1].depth if self.open else 0
            part_fields, body = header_at(self.data, at, self.delimiters)
            at = self.entity(part_fields, body, depth)

    def entity(self, fields: Fields, start: int, depth: int) -> int | None:
        """Take in one entity; return where the next one begins, or None at the end."""
        kind = media_type(fields)
        self.entities += 1
        while kind in _ENVELOPED and depth < DEPTH_LIMIT:
            coding = _coding(fields)
            if coding in {"base64", "quoted-printable"}:
                return self.encoded_message(fields, start, kind, depth)
            depth += 1
            fields, start = header_at(self.data, _after_mbox_line(self.data, start), self.delimiters)
            kind = media_type(fields)
            self.parts.append(Part(fields, "message/rfc822", b"", depth, self.parent()))
        boundary = self.boundary(fields, kind, start)
        if boundary:
            self.open.append(_Open(boundary, kind, depth))
            self.index()
            return self.next_delimiter(start)[1]
        if kind.startswith("multipart/"):
            kind = "text/plain"  # its boundary never occurs: what stands there was meant to be read
        parent = self.parent()  # before its end closes it
        end, following = self.next_delimiter(start)
        self.parts.append(Part(fields, kind, self.data[start:end], depth, parent))
        return following

    def encoded_message(self, fields: Fields, start: int, kind: str, depth: int) -> int | None:
        """Take in a message wrapped in base64 or quoted-printable (forbidden by RFC 2046 5.2.1, and sent)."""
        parent = self.parent()
        end, following = self.next_delimiter(start)
        body = _framed(transfer_decoded(Part(fields, kind, self.data[start:end], depth, "")))
        inner, inner_start = header_at(body, _skip_leading(body))
        self.parts.append(Part(inner, "message/rfc822", b"", depth + 1, parent))
        if depth < 2:
            nested = _Walk(body, self.defects)
            nested.run(inner, inner_start)
            self.parts += [part._replace(depth=part.depth + depth + 1) for part in nested.parts]
        return following

    def parent(self) -> str:
        """Return the media type of the innermost open multipart."""
        return self.open[-1].type if self.open else ""

    def boundary(self, fields: Fields, kind: str, start: int) -> bytes | None:
        """Return the boundary to divide by; None for a leaf. A stated one that never occurs is guessed anew."""
        divided = kind.startswith("multipart/")
        if not divided and (self.open or not self.data.startswith((b"--", b"\n--", b"This is a MIME-encap"), start)):
            return None
        if len(self.open) >= DEPTH_LIMIT:
            self.defects.append("cut-at-depth-limit")
            return None
        if divided:
            stated = parameter(fields.get("content-type"), "boundary").rstrip().encode("latin-1", "replace")
            if any(opened.boundary == stated for opened in self.open):
                return None
            if stated and self.data.find(b"\n--" + stated, start - 1) >= 0:
                return stated
        return self.guessed(start)

    def guessed(self, start: int) -> bytes | None:
        """Return what looks like a boundary: a line ``--something`` with a Content- field after it."""
        self.guesses += 1
        found = _LOST_BOUNDARY.search(self.data, start, start + HEADER_LIMIT) if self.guesses <= GUESS_LIMIT else None
        if not found or any(found[1].startswith(opened.boundary) for opened in self.open):
            return None
        self.defects.append("boundary-guessed")
        return found[1]

    def index(self) -> None:
        """Note which lines end a part now: to boundary n (counted from 1) or, negative, out of it."""
        self.delimiters = {}
        for level, opened in enumerate(self.open, 1):
            self.delimiters[opened.boundary] = level
            self.delimiters.setdefault(opened.boundary + b"--", -level)

    def next_delimiter(self, at: int) -> tuple[int, int | None]:
        """Return where the text from `at` on ends, and where the part after it begins (None: nothing follows)."""
        data, end = self.data, -1
        found = data.find(b"\n--", at - 1) if self.open else -1
        while found >= 0 and self.lines < DELIMITER_LIMIT:
            self.lines += 1
            stop = data.find(b"\n", found + 1)
            stop = len(data) if stop < 0 else stop
            level = self.delimiters.get(data[found + 3 : stop].rstrip())
            if level is not None:
                end = found if end < 0 else end
                self.leave(level if level > 0 else -level - 1)
                if level > 0:
                    return max(end, at), min(stop + 1, len(data))
                if not self.open:
                    return max(end, at), None
            found = data.find(b"\n--", stop)
        if self.open:
            self.defects.append("no-end-boundary" if found < 0 else "cut-at-delimiter-limit")
        return (len(data) if end < 0 else max(end, at)), None

    def leave(self, keep: int) -> None:
        """Close the multiparts inside the first `keep`."""
        if len(self.open) > keep:
            del self.open[keep:]
            self.index()


def _coding(fields: Fields) -> str:
    return (fields.get("content-transfer-encoding") or "").strip().lower()


def transfer_decoded(part: Part) -> bytes:
    """Return the body with base64 or quoted-printable undone, at most `TEXT_LIMIT` bytes.

    Some writers declare base64 and send plain text, or send base64 and declare nothing: the body decides.
    Raises: nothing: base64 that is none is returned as it stands.
    """
    coding = _coding(part.fields)
    body = part.body[:TEXT_LIMIT]
    if coding == "quoted-printable":
        return quopri.decodestring(body)
    if coding == "base64":
        return _base64(body) if _BASE64_LINE.match(body) else body
    return _base64(body) if _BASE64_BODY.fullmatch(body) else body


def _base64(body: bytes) -> bytes:
    clean = _BASE64_JUNK.sub(b"", body)
    head = clean.split(b"=", 1)[0]
    try:
        return (
            binascii.a2b_base64(head + b"=" * (-len(head) % 4))
            if len(head) % 4 != 1
            else binascii.a2b_base64(head[:-1])
        )
    except binascii.Error:
        return body


_CHARSETS: Final = {
    # names that mail states and Python does not know, or knows too strictly for real mail
    "unicode-1-1-utf-7": "utf-7",
    "x-unicode-2-0-utf-7": "utf-7",
    "unicode-1-1-utf-8": "utf-8",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "shift_jis": "cp932",
    "x-sjis": "cp932",
    "iso-2022-jp": "iso2022_jp_ext",
    "cp-850": "cp850",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "ansi_x3.4-1968": "utf-8",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "iso-8859-8-i": "iso-8859-8",
    "utf8": "utf-8",
    "utf-8": "utf-8",
}
_CHARSET_NAME = re.compile(r"[a-z0-9][a-z0-9_.:-]{1,30}")
_CODECS_NOT_TEXT: Final = frozenset(
    {"base64", "hex", "bz2", "zip", "zlib", "rot13", "rot_13", "uu", "quopri", "idna", "punycode", "undefined"}
)


def decode_text(raw: bytes, charset: str) -> str:
    """Return bytes as text: by the stated charset, else by what they look like.

    Raises: nothing: an unknown charset and broken bytes are read as UTF-8, then as Windows-1252.
    """
    if raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return raw.decode("utf-16", "replace").replace("\r\n", "\n")
    name = charset.strip().strip("'\"").lower()
    codec = _CHARSETS.get(name, name)
    if codec in {"", "utf-8"}:
        return _undeclared(raw)
    if codec == "iso2022_jp_ext" or b"\x1b$" in raw:
        return _escaped_japanese(raw)
    try:
        if _CHARSET_NAME.fullmatch(codec) and codec.replace("-", "_") not in _CODECS_NOT_TEXT:
            return raw.decode(codec, "replace")
    except (LookupError, ValueError, TypeError):
        pass
    return _undeclared(raw)


def _undeclared(raw: bytes) -> str:
    """Return text whose charset is not stated: ASCII, ISO-2022-JP by its escapes, UTF-8, else Windows-1252."""
    if raw.isascii():
        return _escaped_japanese(raw) if b"\x1b$" in raw else raw.decode("ascii")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # mostly valid UTF-8 that was cut or damaged stays UTF-8
        text = raw.decode("utf-8", "replace")
        return text if text.count("\ufffd") * 20 < len(text) else raw.decode("cp1252", "replace")


def _escaped_japanese(raw: bytes) -> str:
    """Return ISO-2022-JP text; bytes of other charsets in it (a gateway's own words) stay readable."""
    try:
        return raw.decode("iso2022_jp_ext")
    except UnicodeDecodeError:
        if b"\x1b" in raw or raw.isascii():
            return raw.decode("iso2022_jp_ext", "replace")
        return _undeclared(raw)
