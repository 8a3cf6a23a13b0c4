"""answerd's sockets: whose they are, whom they are taken from, what happens when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket

import pytest

from milter_bounce.protocol import memcache
from milter_bounce.system import serve
from milter_bounce.system.serve import Owner, Server, Service, listen
from milter_bounce.system.sockets import NoSocketError


def forbidden(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def service(path, told: list[str] | None = None) -> Service:
    """Return a gate at `path` that knows nobody; what it says goes to `told`."""
    warn = (told if told is not None else []).append
    return Service("gate", f"unix:{path}", memcache.Connection, lambda _: memcache.END, warn=warn)


async def answered(path) -> bytes:
    """Return what is answered at `path`; empty where nobody is there."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return b""
    writer.write(b"get a@example.net\r\n")
    line = await reader.readline()
    writer.close()
    return line


async def until(said: list[str], words: str) -> None:
    while not any(words in line for line in said):  # noqa: ASYNC110 - the list has no event
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("group", ["", "own"], ids=["no-group", "group-that-it-has"])
def test_owner_asks_for_no_chown_that_changes_nothing(tmp_path, monkeypatch, group):
    """The unit's @privileged forbids chown(2), even of -1 to -1: a file that is theirs already is left alone."""
    monkeypatch.setattr(os, "chown", forbidden)
    (tmp_path / "file").touch()
    name = group and grp.getgrgid((tmp_path / "file").stat().st_gid).gr_name
    Owner("", name).give(tmp_path / "file")


def test_owner_changes_a_group_that_differs(tmp_path, monkeypatch):
    """Where there is something to change it is asked for."""
    asked = []
    monkeypatch.setattr(os, "chown", lambda *words: asked.append(words))
    (tmp_path / "file").touch()
    other = next(g for g in grp.getgrall() if g.gr_gid != (tmp_path / "file").stat().st_gid)
    Owner("", other.gr_name).give(tmp_path / "file")
    assert asked == [(tmp_path / "file", -1, other.gr_gid)]


def test_listen_takes_no_socket_from_a_program_that_listens(tmp_path):
    """A second answerd is told that another one is there, and the first one's socket stays."""
    with contextlib.closing(listen(f"unix:{tmp_path}/s", Owner())):
        before = (tmp_path / "s").stat().st_ino
        with pytest.raises(OSError, match=r"/s: cannot listen: another program listens there; stop it first"):
            listen(f"unix:{tmp_path}/s", Owner())
        assert (tmp_path / "s").stat().st_ino == before
        assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_listen_sees_a_program_whose_backlog_is_full(tmp_path):
    """A program that does not accept just now still listens; nobody waits to find out."""
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(tmp_path / "s"))
        with pytest.raises(OSError, match="another program listens there"):
            listen(f"unix:{tmp_path}/s", Owner())


def test_listen_takes_the_place_of_a_socket_that_nobody_listens_on(tmp_path):
    """What a killed program left behind is no obstacle."""
    listen(f"unix:{tmp_path}/s", Owner()).close()
    assert (tmp_path / "s").is_socket()
    listen(f"unix:{tmp_path}/s", Owner()).close()


def stood(path, kind: str) -> None:
    """Put something that is no socket at `path`."""
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("gone" if kind == "dangling-link" else "real")
        with socket.socket(socket.AF_UNIX) as real:
            real.bind(str(path.parent / "real"))


@pytest.mark.parametrize("kind", ["file", "folder", "link-to-socket", "dangling-link"])
def test_listen_replaces_nothing_but_a_socket(tmp_path, kind):
    """A file of somebody else's at the path is left alone, and named with the remedy."""
    stood(tmp_path / "s", kind)
    before = (tmp_path / "s").lstat()
    with pytest.raises(NoSocketError, match=rf"^{tmp_path}/s: is no socket; remove it or name another$"):
        listen(f"unix:{tmp_path}/s", Owner())
    assert (tmp_path / "s").lstat() == before
    assert not list(tmp_path.glob(".s*"))


def test_file_in_the_place_of_a_lost_socket_stays(tmp_path, monkeypatch):
    """While we serve, too: it is told once, and nothing is replaced."""
    monkeypatch.setattr(serve, "SWEEP_S", 0.01)
    told: list[str] = []

    async def serving() -> None:
        async with Server([service(tmp_path / "s", told)]) as server:
            await server.accept()
            (tmp_path / "s").unlink()
            (tmp_path / "s").write_text("mine")
            await until(told, "is no socket")
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(serving(), 60))
    assert len(told) == 1
    assert (tmp_path / "s").read_text() == "mine"


def test_listen_names_the_remedy_for_a_closed_folder(tmp_path, monkeypatch):
    """Permission denied comes with the command that opens the folder."""
    monkeypatch.setattr(serve, "_unix_socket", forbidden)
    with pytest.raises(OSError, match=rf"install -d -m 2750 -o milter-bounce -g postfix {tmp_path}$"):
        listen(f"unix:{tmp_path}/s", Owner("", "postfix"))


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_lost_socket_is_made_again(tmp_path, monkeypatch, replaced):
    """Somebody removes our socket, or leaves a dead one in its place: the next sweep listens there again."""
    monkeypatch.setattr(serve, "SWEEP_S", 0.01)
    told: list[str] = []

    async def serving() -> None:
        async with Server([service(tmp_path / "s", told)]) as server:
            await server.accept()
            (tmp_path / "s").unlink()
            if replaced:
                with socket.socket(socket.AF_UNIX) as other:
                    other.bind(str(tmp_path / "s"))
            await until(told, "is ours again")
            assert await answered(tmp_path / "s") == memcache.END
        assert not list(tmp_path.iterdir())

    asyncio.run(asyncio.wait_for(serving(), 60))


def test_socket_of_another_program_is_neither_taken_nor_removed(tmp_path, monkeypatch):
    """Two programs that began at one moment: the loser says once that nobody asks it, and takes over at the end."""
    monkeypatch.setattr(serve, "SWEEP_S", 0.01)
    told: list[str] = []

    async def serving() -> None:
        async with Server([service(tmp_path / "s", told)]) as server:
            await server.accept()
            (tmp_path / "s").unlink()
            async with Server([service(tmp_path / "s")]) as winner:
                await winner.accept()
                await until(told, "another program listens there")
                await asyncio.sleep(0.1)
                assert len(told) == 1
                assert await answered(tmp_path / "s") == memcache.END
            await until(told, "is ours again")
            assert await answered(tmp_path / "s") == memcache.END

    asyncio.run(asyncio.wait_for(serving(), 60))


def test_leaving_removes_our_own_socket_alone(tmp_path):
    """What stands at our path and is another's stays when we end."""

    async def serving() -> None:
        async with Server([service(tmp_path / "s")]):
            (tmp_path / "s").unlink()
            (tmp_path / "s").touch()

    asyncio.run(serving())
    assert (tmp_path / "s").is_file()
