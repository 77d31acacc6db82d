"""Damage to a store is noticed where it is opened, and a file that does not fit leaves the one that was there."""

import errno
import sqlite3
import subprocess
import sys

import pytest

from ssd_lib.attacks import Record
from ssd_lib.experiments.config import Choice
from ssd_lib.experiments.damage import examine, reading
from ssd_lib.experiments.store import FORMAT, Row, Store, load_run
from ssd_lib.paths import replacing, write_whole

SSD = Choice("ssd", ())


@pytest.fixture
def run(tmp_path):
    return written(tmp_path / "run", "a plain answer")


def written(out, text):
    with Store.open(out) as store, store.session({"seed": 0}) as session:
        store.add_items("direct", [Record(f"i{i}", "q", "p") for i in range(3)])
        store.add_answers("toy", "direct", SSD, [Row(f"i{i}", text) for i in range(3)], session=session, size=3)
    return out


def refused(out, words):
    for opened in (load_run, Store.open):
        with pytest.raises(ValueError, match=words) as error:
            opened(out)
        assert str(out / "run.sqlite") in str(error.value) and "\n" not in str(error.value)


def test_a_changed_letter_is_noticed(run):
    file = run / "run.sqlite"
    file.write_bytes(file.read_bytes().replace(b"a plain answer", b"a plane answer", 1))
    refused(run, "a row of answers, .*, is not what was written")


@pytest.mark.parametrize("table", ["sessions", "items", "answers", "verdicts"])
def test_a_missing_table_is_noticed(run, table):
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute(f"DROP TABLE {table}")
    connection.close()
    refused(run, f"is damaged .it has no table {table}")


def test_an_empty_file_is_no_new_run(run):
    (run / "run.sqlite").write_bytes(b"")
    refused(run, "is damaged .it is empty")


def test_the_log_of_another_run_is_not_played_back(run, tmp_path):
    other = written(tmp_path / "other", "another answer")
    with sqlite3.connect(other / "run.sqlite") as holding:
        holding.execute("UPDATE run SET name = name || '!'")
        holding.execute("PRAGMA user_version = 1")
        holding.commit()
        (run / "run.sqlite-wal").write_bytes((other / "run.sqlite-wal").read_bytes())
    holding.close()
    refused(run, "run.sqlite-wal beside it belongs to another file")
    (run / "run.sqlite-wal").unlink()
    assert len(load_run(run)) == 3


def test_rows_that_change_as_they_may_are_whole(run):
    with Store.open(run) as store, store.transaction() as connection:
        connection.execute("UPDATE answers SET id = -id")
        connection.execute("DELETE FROM answers WHERE item = 'i0'")
        connection.execute("INSERT OR REPLACE INTO run VALUES ('format', '1')")
    assert len(load_run(run)) == 2


def elsewhere(run, command):
    """Another process opens the file, does something and closes it: the last one to close takes the log away."""
    code = f"import sqlite3; c = sqlite3.connect({str(run / 'run.sqlite')!r}); c.execute({command!r}).fetchall(); c.commit(); c.close()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_sees_one_moment_while_a_writer_comes_and_goes(run):
    with reading(run / "run.sqlite") as connection:
        connection.execute("PRAGMA cache_size = 1")  # as of a run that does not fit into the cache
        examine(connection, run / "run.sqlite", FORMAT)
        elsewhere(run, "DELETE FROM answers")
        elsewhere(run, "INSERT INTO run VALUES ('more', hex(zeroblob(500000)))")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (3,)
    with reading(run / "run.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (0,)


def test_a_look_at_a_run_takes_no_lock_from_its_writer(run):
    with Store.open(run) as store:
        store.set("kept", 1)
        load_run(run)
        elsewhere(run, "SELECT * FROM run")
        assert (run / "run.sqlite-wal").stat().st_size
        store.set("kept, too", 2)
    with Store.open(run) as store:
        assert (store.get("kept"), store.get("kept, too")) == (1, 2)


def test_pages_that_are_still_in_the_log_are_not_missed(run):
    """A full disk: page 1 of a longer file has reached it, the pages behind it stay in the log."""
    file, log = run / "run.sqlite", run / "run.sqlite-wal"
    with Store.open(run) as store:
        store.connection.execute("PRAGMA wal_autocheckpoint = 0")
        short = file.stat().st_size
        store.set("more", "y" * 50_000)
        kept = log.read_bytes()
    long = file.read_bytes()
    file.write_bytes(long[:short])
    log.write_bytes(kept)
    assert len(long) > short and len(load_run(run)) == 3


def test_a_store_without_sums_is_read_and_continued(run):
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute("DROP TABLE sums")
    connection.close()
    assert len(load_run(run)) == 3
    Store.open(run).__exit__()
    assert len(load_run(run)) == 3


def test_a_writer_whose_file_is_gone_stops(run):
    with Store.open(run) as store:
        (run / "run.sqlite").rename(run / "elsewhere")
        with pytest.raises(OSError, match=r"run\.sqlite was removed or replaced while this run was writing it"):
            store.set("x", 1)


def test_a_full_disk_is_said_and_what_was_stored_stays(run):
    with Store.open(run) as store:
        (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
        store.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="the disk is full: .*Make room in .*the same command goes on"):
            store.set("much", "x" * 100_000)
        store.connection.execute("PRAGMA max_page_count = 100000")
        store.set("much", "x" * 100_000)
    assert len(load_run(run)) == 3


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path):
    page = tmp_path / "page.md"
    write_whole(page, "the old one")
    full = pytest.raises(OSError, match=r"the disk is full: .*page\.md was not written, and what stood there")
    with full, replacing(page) as file:
        file.write_text("half of")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert page.read_text() == "the old one" and [*tmp_path.iterdir()] == [page]
    write_whole(page, b"a new one")
    assert page.read_bytes() == b"a new one" and [*tmp_path.iterdir()] == [page]
