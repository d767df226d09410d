"""What /metrics tells of pictures: how many, what was wrong with them, and what was passed over in them."""

from __future__ import annotations

import base64
import io

from running import StubForward, running, stub_app

from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import ServeSettings
from making import make_picture


def saved(kind, **how):
    stream = io.BytesIO()
    make_picture(30, 20).save(stream, kind, **how)
    return stream.getvalue()


def embed(here, *pictures):
    items = [{"image": "data:;base64," + base64.b64encode(data).decode()} for data in pictures]
    return here.post("/v1/embeddings", {"model": "cocoa", "input": items}).status_code


def counts(here, name):
    rows = [row for row in here.client.get("/metrics").text.splitlines() if row.startswith(name + "{")]
    return {row.partition('"')[2].partition('"')[0]: float(row.rpartition(" ")[2]) for row in rows}


def test_pictures_are_counted_by_result_and_by_what_was_passed_over():
    """Through the decoder's own process: what it notes must come back with the picture."""
    settings = ServeSettings(port=0)
    with running(create_app(settings, Engine(StubForward(), settings, Metrics()))) as here:
        plain, moving = saved("PNG"), saved("GIF", save_all=True, append_images=[make_picture(30, 20, 1)])
        long, tinted = saved("PNG") + b"more", saved("JPEG", icc_profile=b"no profile at all")
        assert embed(here, plain, moving, long, tinted) == 200
        assert embed(here, moving) == 200
        assert embed(here, plain[:60]) == 422
        assert embed(here, b"hello") == 422
        assert counts(here, "cocoa_picture_notes_total") == {
            "first_frame": 2.0, "trailing_bytes": 1.0, "profile_broken": 1.0,
        }  # fmt: skip
        assert counts(here, "cocoa_pictures_total") == {
            "good": 5.0, "E_IMAGE_TRUNCATED": 1.0, "E_IMAGE_OPEN": 1.0,
        }  # fmt: skip


def test_a_decoder_cannot_make_labels_without_end():
    class Talks:
        async def adecode(self, sources, *, ahead=False):
            picture = make_picture(8, 8)
            picture.info["notes"] = tuple(f"{n} {{}}" for n in range(100))
            return [picture for _ in sources]

        def close(self):
            pass

    with running(stub_app()) as here:
        here.service.engine._decoder = Talks()
        assert embed(here, saved("PNG")) == 200
        assert counts(here, "cocoa_picture_notes_total") == {"other": 100.0}
