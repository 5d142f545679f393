"""Reading and writing mp4 with PyAV."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np

from engine.errors import InputError

X264 = {"crf": "16", "preset": "medium", "threads": "1", "x264-params": "cpu-independent=1"}


def encode_video(frames: np.ndarray, fps: int, scale: int = 1) -> bytes:
    """H.264 in mp4 from uint8 frames (T, H, W, 3), enlarged `scale` times for viewing, with clean edges.

    The same frames are the same bytes, always: x264 runs in one thread and without the code that it picks by CPU. With
    that code (AVX-512 here) the look-ahead was seen to give other bytes from one call to the next.
    """
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        enlarge = _enlarger(frames.shape[1], frames.shape[2], fps, scale)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(enlarge(frame)))
        container.mux(stream.encode())
    return buffer.getvalue()


def _enlarger(height: int, width: int, fps: int, scale: int) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """rgb24 -> yuv420p, `scale` times as large. Small pictures go through xBR, which follows edges and so draws no
    stairs, as far as its factor divides the scale; Lanczos does the rest."""
    graph = av.filter.Graph()
    parts: list[av.filter.FilterContext] = [
        graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, fps))
    ]
    factor = next((n for n in (3, 2) if scale % n == 0), None)
    if factor:
        parts += [graph.add("format", "bgra"), graph.add("xbr", str(factor))]
    size = f"{width * scale}:{height * scale}"
    parts.append(graph.add("scale", f"{size}:flags=lanczos+accurate_rnd+full_chroma_int+bitexact"))
    parts += [graph.add("format", "yuv420p"), graph.add("buffersink")]
    for one, next_one in itertools.pairwise(parts):
        one.link_to(next_one)
    graph.configure()

    def enlarge(frame: av.VideoFrame) -> av.VideoFrame:
        graph.push(frame)
        out = graph.pull()
        assert isinstance(out, av.VideoFrame)
        return out

    return enlarge


# What ffmpeg's mov_text stream wants to know before it takes text: an SSA header with one style.
SUBTITLE_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    b"Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, "
    b"MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n"
    b"[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)


def join_videos(clips: Sequence[bytes], narration: Sequence[str] = ()) -> bytes:
    """One mp4 from several that `encode_video` wrote with the same settings, by moving their packets: nothing is
    encoded again, so the film's frames are the clips' frames. `narration`, one text a clip, becomes subtitles."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as film:
        stream, subtitles, offset = None, None, 0
        for number, clip in enumerate(clips):
            with av.open(io.BytesIO(clip), "r") as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = film.add_stream_from_template(video)
                    stream.time_base = video.time_base
                    if any(narration):
                        subtitles = film.add_stream("mov_text")
                        subtitles.codec_context.subtitle_header = SUBTITLE_HEADER
                # decode times begin below zero when there are B-frames: shift by the clip's length alone
                rate, tick = video.average_rate, video.time_base
                assert rate and tick, "not written by encode_video"
                length = int(video.frames / (rate * tick))
                for packet in source.demux(video):
                    if packet.dts is None or packet.pts is None:  # the flush packet
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    film.mux(packet)
                if subtitles:  # an empty text ends the one before it
                    text = narration[number].encode()
                    spoken = av.Packet(struct.pack(">H", len(text)) + text)
                    spoken.stream, spoken.time_base = subtitles, tick
                    spoken.pts = spoken.dts = offset
                    spoken.duration = length
                    film.mux(spoken)
                offset += length
    return buffer.getvalue()


def write_vtt(narration: Sequence[str], seconds: Sequence[float]) -> str:
    """The narration as WebVTT: one cue a clip, each as long as its clip; clips without words have none."""

    def clock(at: float) -> str:
        whole = round(at * 1000)
        return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}.{whole % 1000:03d}"

    cues, at = ["WEBVTT"], 0.0
    for text, length in zip(narration, seconds, strict=True):
        if text:
            words = text.replace("&", "&amp;").replace("<", "&lt;")  # neither a tag nor the arrow of a time line
            cues.append(f"{clock(at)} --> {clock(at + length)}\n{' '.join(words.split())}")
        at += length
    return "\n\n".join(cues) + "\n"


def read_video(source: str | Path | bytes) -> tuple[np.ndarray, Fraction]:
    """All frames of a video, uint8 (T, H, W, 3), and its frames per second. Raises InputError when it is none."""
    rate, frames = open_frames(source)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), rate


def open_frames(source: str | Path | bytes) -> tuple[Fraction, Iterator[av.VideoFrame]]:
    """A video's frames per second and its frames, one decoded at a time. Raises InputError, also on the way, when it
    cannot be read or has no frames."""
    name = "" if isinstance(source, bytes) else f" {source}"
    try:
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r")
        stream = container.streams.video[0]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"cannot read the video{name}: {error}") from None

    def decode() -> Iterator[av.VideoFrame]:
        frame = None
        with container:
            decoder = container.decode(stream)
            while True:
                try:
                    frame = next(decoder)
                except StopIteration:
                    break
                except (av.FFmpegError, OSError) as error:
                    raise InputError(f"cannot read the video{name}: {error}") from None
                yield frame
        if frame is None:
            raise InputError(f"the video{name} has no frames")

    return Fraction(stream.average_rate or 8), decode()
