"""Video files: a clip's size and length, its frames, and frames written as a clip, through imageio-ffmpeg.

Only MP4 is read. A file of another kind under that name, such as a play list that points elsewhere, is refused before
ffmpeg sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_lens.errors import TaskError
from dit_lens.store.atomic import new_file


@dataclass(frozen=True)
class Clip:
    """An MP4 file that could be opened: pixels, frames and frames per second."""

    path: Path
    height: int
    width: int
    num_frames: int
    fps: float

    def frames(self) -> np.ndarray:
        """Decode all frames.

        Returns:
            uint8 (F, H, W, 3).

        Raises:
            TaskError: Fewer can be decoded than are announced.
        """
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(
            self.path, input_params=["-f", "mov"], output_params=["-fps_mode", "passthrough"]
        )
        try:
            next(reader)  # what the file says of itself
            found = [np.frombuffer(raw, np.uint8).reshape(self.height, self.width, 3) for raw in reader]
        except (OSError, RuntimeError, ValueError, StopIteration) as error:
            raise _broken(self.path, str(error)) from error
        finally:
            reader.close()
        if len(found) != self.num_frames:
            raise _broken(self.path, f"{len(found)} of {self.num_frames} frames can be decoded")
        return np.stack(found)


def open_clip(path: Path) -> Clip:
    """Look at an MP4 file without decoding its pictures.

    Args:
        path: Of the file.

    Returns:
        The clip, not decoded.

    Raises:
        TaskError: For a file that is no MP4, or is cut short.
    """
    import imageio_ffmpeg

    path = Path(path).resolve()
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise _broken(path, str(error)) from error
    if head[4:8] != b"ftyp":
        raise _broken(path, "it does not begin as an MP4 file")
    reader = imageio_ffmpeg.read_frames(path, input_params=["-f", "mov"])
    try:
        about = next(reader)
        count, _ = imageio_ffmpeg.count_frames_and_secs(path)
    except (OSError, RuntimeError, ValueError, StopIteration) as error:
        raise _broken(path, (str(error).strip().splitlines() or ["it cannot be opened"])[-1]) from error
    finally:
        reader.close()
    width, height = about["size"]
    if count < 1:
        raise _broken(path, "it holds no frame")
    return Clip(path, height, width, count, float(about["fps"]))


def write_clip(path: Path, video: np.ndarray, fps: float = 16) -> Path:
    """Write frames as H.264 in an MP4 file, in one move.

    Lossy: colours move by a few of 255.

    Args:
        path: Of the file; missing folders are made.
        video: uint8 0-255 or float 0-1, (F, H, W, 3).
        fps: Frames per second.

    Returns:
        The path.

    Raises:
        TaskError: For another shape or range, or odd sizes.
    """
    import imageio_ffmpeg

    frames = as_uint8(video)
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise TaskError(
            f"frames of {frames.shape[1]} x {frames.shape[2]} cannot be H.264: height and width must be even"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as scratch:
        size = frames.shape[2], frames.shape[1]
        writer = imageio_ffmpeg.write_frames(
            str(scratch), size, fps=fps, quality=8, macro_block_size=1,
            output_params=["-f", "mp4", "-movflags", "+faststart"],  # the scratch file's name does not say the kind
        )  # fmt: skip
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
    return path


def as_uint8(video: np.ndarray) -> np.ndarray:
    """Frames as uint8 (F, H, W, 3), checked for shape and range."""
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3 or not len(video):
        raise TaskError(f"a video is (frames, height, width, 3), found {video.shape}: pass run.video, not a batch")
    if video.dtype == np.uint8:
        return video
    if (
        not np.issubdtype(video.dtype, np.floating)
        or not np.isfinite(video).all()
        or video.min() < 0
        or video.max() > 1
    ):
        raise TaskError("a video is uint8 from 0 to 255 or finite floats from 0 to 1, as run.video is")
    return np.round(video * 255).astype(np.uint8)


def _broken(path: Path, why: str) -> TaskError:
    return TaskError(f"{path} cannot be read as a video ({why}): get the file again, or remove it to go on without it")
