"""Pictures to a file: MP4 by ffmpeg, GIF and WebP by Pillow."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from surefoot.errors import UserError
from surefoot.files import check_writable

KINDS = (".mp4", ".gif", ".webp")
MISSING = (
    "an .mp4 needs ffmpeg, which is not installed: pip install 'surefoot[video]' (68 MB: it carries ffmpeg); "
    "a name in .gif or .webp needs nothing more"
)


def check_film(path: Path, *, overwrite: bool) -> None:
    """Raise ValueError for a file that cannot be written, or is there already."""
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: a video's name ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; --overwrite replaces it")
    check_writable(path.parent, what="folder")
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            raise UserError(MISSING) from None


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    heard: Callable[[int], None] = lambda count: None,
) -> int:
    """Write frames as they come; the file is there when it is whole, or not at all.

    Args:
        path: of the file; its ending says how it is written. GIF and WebP hold all frames in memory.
        frames: [height, width, 3] uint8 each, of one size, even in both.
        fps: frames in a second, of any size; a GIF counts in hundredths.
        heard: hears of every frame, how many there are.

    Returns:
        How many frames were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    staging = path.with_name(f".tmp-{uuid.uuid4().hex}")
    count = itertools.count(1)

    def counted() -> Iterator[np.ndarray]:
        for frame in frames:
            yield frame
            heard(next(count))

    try:
        if suffix == ".mp4":
            _write_mp4(staging, counted(), fps)
        else:
            _write_with_pillow(staging, counted(), fps, suffix[1:])
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    return next(count) - 1


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """H.264 with a colour for every four pixels: what browsers and slides play.

    ffmpeg is started from here, as `imageio_ffmpeg.write_frames` forks, which JAX warns of.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    first = next(frames)
    height, width, _ = first.shape
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:.6f}"]
    codec = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p"]
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *given, "-i", "-", *codec]
    with tempfile.TemporaryFile() as said:
        ffmpeg = subprocess.Popen(
            [*command, "-movflags", "+faststart", "-f", "mp4", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            process_group=0,  # Ctrl-C is for us to hear
        )
        assert ffmpeg.stdin is not None
        with contextlib.suppress(BrokenPipeError), ffmpeg.stdin:
            for frame in itertools.chain([first], frames):
                ffmpeg.stdin.write(np.ascontiguousarray(frame).data)
        if ffmpeg.wait():
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"ffmpeg could not write {path.name}: {lines[-1] if lines else ''}")


def _write_with_pillow(path: Path, frames: Iterator[np.ndarray], fps: float, kind: str) -> None:
    is_gif = kind == "gif"
    pictures = [Image.fromarray(frame) for frame in frames]
    if is_gif:  # one palette for all: what stands still costs nothing then
        some = np.concatenate([np.asarray(p) for p in pictures[:: 1 + len(pictures) // 8]])
        palette = Image.fromarray(some).quantize(256, dither=Image.Dither.NONE)
        pictures = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    tick = 10 if is_gif else 1
    ends = [round(1000 / fps * k / tick) * tick for k in range(len(pictures) + 1)]
    first, *rest = pictures
    options = {} if is_gif else {"quality": 70, "method": 4}
    first.save(
        path,
        format=kind,
        save_all=True,
        append_images=rest,
        duration=np.diff(ends).tolist(),
        loop=0,
        **options,
    )
