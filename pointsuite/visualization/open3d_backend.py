"""Open3D's window, hidden or on a screen, and the question whether it can be made here at all."""

import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile

import numpy as np

from pointsuite.visualization.scene import MARGIN, Scene

INSTALL = "apt-get install libegl1 libgl1 libusb-1.0-0"
_LIBRARIES = ("libusb-1.0.so.0", "libGL.so.1", "libEGL.so.1")
_PROBE = """
import sys, open3d
made = open3d.visualization.Visualizer().create_window(width=16, height=16, visible=False)
sys.exit(0 if made else "Open3D made no window")
"""


@functools.cache
def why_not() -> str | None:
    """Why Open3D cannot draw on this machine, and what to install; None where it can."""
    if importlib.util.find_spec("open3d") is None:
        return "open3d is not installed: pip install open3d"
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            return f"{name} is missing: {INSTALL}"
    # Where the graphics driver is broken Open3D may end its process: let another one try first.
    try:
        subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True)
    except subprocess.TimeoutExpired as error:
        return f"it made no window in {error.timeout} seconds: {INSTALL}"
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"its process ended with {error.returncode}"]
        return f"{said[-1]}: {INSTALL}"
    return None


def has_screen() -> bool:
    """Whether a screen answers. On one that does not, Open3D would show its window to nobody, for ever."""
    for variable, library, connect in (
        ("DISPLAY", "libX11.so.6", "XOpenDisplay"),
        ("WAYLAND_DISPLAY", "libwayland-client.so.0", "wl_display_connect"),
    ):
        if os.environ.get(variable):
            try:
                function = getattr(ctypes.CDLL(library), connect)
            except OSError:
                continue
            function.restype = ctypes.c_void_p
            if function(None):
                return True
    return False


def picture(scene: Scene, size: tuple[int, int], diameter: np.ndarray, background) -> np.ndarray:
    """The scene as discs `diameter` pixels wide, in a hidden window: uint8 (height, width, 3).

    Call it where `why_not()` is None. Raises RuntimeError where the window does not show it all the same.
    """
    import open3d as o3d

    fine = 2  # drawn twice as large and averaged, for smooth edges
    vertices, triangles, owner = _discs(scene, diameter * MARGIN / size[1])
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(triangles)
    )
    mesh.vertex_colors = o3d.utility.Vector3dVector(scene.colors[owner])
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # else Wayland's library complains
    window = _window(mesh, (fine * size[0], fine * size[1]), background, visible=False)
    window.get_render_option().light_on = False  # the colours are shaded already
    camera = window.get_view_control()
    camera.change_field_of_view(step=-90)  # as narrow as it goes, which is parallel projection
    camera.set_lookat(np.zeros(3))
    camera.set_front([0, 0, 1])
    camera.set_up([0, 1, 0])
    camera.set_zoom(MARGIN / np.ptp(vertices, axis=0).max())
    image = np.asarray(window.capture_screen_float_buffer(do_render=True))
    window.destroy_window()
    if image.shape[:2] != (fine * size[1], fine * size[0]) or np.ptp(image, axis=(0, 1)).max() == 0:
        raise RuntimeError(f"Open3D drew an empty picture or one of another size, {image.shape[:2]}")
    image = image.reshape(size[1], fine, size[0], fine, 3).mean(axis=(1, 3))
    return (image * 255).round().astype(np.uint8)


def show(points, colors, normals=None, title: str = "pointsuite") -> None:
    """Opens a window on the screen and returns when it is closed. Call it where `has_screen()`."""
    import open3d as o3d

    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.asarray(points, np.float64)))
    cloud.colors = o3d.utility.Vector3dVector(np.asarray(colors, np.float64))
    if normals is not None:
        cloud.normals = o3d.utility.Vector3dVector(np.asarray(normals, np.float64))
    window = _window(cloud, (1280, 960), (1, 1, 1), visible=True, title=title)
    window.get_render_option().light_on = normals is not None
    window.run()
    window.destroy_window()


def _window(geometry, size: tuple[int, int], background, *, visible: bool, title: str = ""):
    import open3d as o3d

    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        window = o3d.visualization.Visualizer()
        if not window.create_window(title, *size, visible=visible):
            raise RuntimeError("Open3D made no window")
    window.add_geometry(geometry)
    window.get_render_option().background_color = np.asarray(background, np.float64)
    return window


def _discs(scene: Scene, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A polygon in the surface at every point: vertices (V, 3), triangles (T, 3), each vertex's point."""
    z = scene.normals
    helper = np.where(np.abs(z[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    frame = np.stack([x, np.cross(z, x)], axis=1)  # (N, 2, 3)
    sides = 8 if len(z) < 20000 else 4  # of many points the discs are too small to tell
    angle = np.arange(sides) * 2 * np.pi / sides
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    corners = radius[:, None, None] * circle @ frame  # (N, sides, 3)
    fan = np.array([[0, i, i + 1] for i in range(1, sides - 1)])
    owner = np.repeat(np.arange(len(z)), sides)
    triangles = fan + sides * np.arange(len(z))[:, None, None]
    return (scene.points[:, None] + corners).reshape(-1, 3), triangles.reshape(-1, 3), owner
