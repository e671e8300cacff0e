"""What surrounds the things of a room, in Blender: floor, walls, sky, lamps, camera, paint.

``bpy`` is handed in, so that nothing here imports it.
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobius_seg.data.room_camera import Camera
from mobius_seg.data.room_layout import Tint
from mobius_seg.data.room_light import Lamp, Sky
from mobius_seg.data.rooms import Finish, RoomPlan

Point = tuple[float, float, float]

MIN_ALPHA = 0.5  # glass stays visible enough for its outline to be learnt
STREET_WALL = 60.0  # metres


def build_stage(bpy: Any, plan: RoomPlan, textures: Sequence[Path]) -> None:
    """Floor, walls, ceiling, lamps and sky of a plan."""
    x, y0, y1, z = plan.width / 2, plan.front, plan.depth, plan.height
    floor = _material(bpy, "floor", plan.floor, textures)
    if plan.kind == "street":
        ground = plan.width / 2
        _plane(
            bpy, (-ground, -ground, 0), (2 * ground, 0, 0), (0, 2 * ground, 0), plan.floor, floor
        )
    else:
        _plane(bpy, (-x, y0, 0), (2 * x, 0, 0), (0, y1 - y0, 0), plan.floor, floor)
        ceiling = _material(bpy, "ceiling", plan.ceiling, textures)
        _plane(bpy, (-x, y0, z), (2 * x, 0, 0), (0, y1 - y0, 0), plan.ceiling, ceiling)
    wall = _material(bpy, "wall", plan.wall, textures)
    wide = STREET_WALL / 2 if plan.kind == "street" else x
    sides: dict[str, tuple[Point, Point]] = {
        "back": ((-wide, y1, 0), (2 * wide, 0, 0)),
        "front": ((-x, y0, 0), (2 * x, 0, 0)),
        "left": ((-x, y0, 0), (0, y1 - y0, 0)),
        "right": ((x, y0, 0), (0, y1 - y0, 0)),
    }
    for side in plan.walls:
        corner, along = sides[side]
        _plane(bpy, corner, along, (0, 0, z), plan.wall, wall)
    for lamp in plan.lamps:
        _lamp(bpy, lamp)
    _sky(bpy, plan.sky)


def make_camera(bpy: Any, camera: Camera) -> None:
    """The scene's camera."""
    data = bpy.data.cameras.new("camera")
    data.angle = float(np.radians(camera.angle))
    data.clip_start, data.clip_end = 0.02, 500.0
    thing = bpy.data.objects.new("camera", data)
    right, up, forward = camera.axes()
    thing.matrix_world = _columns(right, up, -forward, camera.position)
    bpy.context.scene.collection.objects.link(thing)
    bpy.context.scene.camera = thing


def paint(material: Any, tint: Tint | None) -> None:
    """Bring an imported material to what the path tracer shows well, and give it another colour.

    Files of old formats say things of their own about gloss; where glass would be invisible and
    metal black, it is made a little less so.
    """
    if material is None or not material.use_nodes:
        return
    node = next((n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"), None)
    if node is None:
        return
    inputs = node.inputs
    inputs["Metallic"].default_value = min(inputs["Metallic"].default_value, 0.5)
    inputs["Roughness"].default_value = float(
        np.clip(inputs["Roughness"].default_value, 0.15, 0.95)
    )
    inputs["IOR"].default_value = 1.45
    if not inputs["Alpha"].is_linked:
        inputs["Alpha"].default_value = max(inputs["Alpha"].default_value, MIN_ALPHA)
    for link in inputs["Base Color"].links:
        picture = getattr(link.from_node, "image", None)
        if picture is None or not (picture.has_data or picture.size[0]):
            material.node_tree.links.remove(link)  # a lost texture would shine in magenta
    if not inputs["Base Color"].is_linked and tint is not None:
        red, green, blue, alpha = inputs["Base Color"].default_value
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        colour = colorsys.hsv_to_rgb(
            (hue + tint[0]) % 1, min(saturation * tint[1], 1), min(value * tint[2], 1)
        )
        inputs["Base Color"].default_value = (*colour, alpha)


def _columns(right: Any, up: Any, back: Any, position: Sequence[float]) -> list[list[float]]:
    """A matrix from its axes, as Blender takes it: a list of columns."""
    columns = np.eye(4)
    columns[:, :3] = np.stack([right, up, back, np.array(position)])
    listed: list[list[float]] = columns.tolist()
    return listed


def _plane(
    bpy: Any, corner: Point, along: Point, across: Point, finish: Finish, material: Any
) -> None:
    """A rectangle with texture coordinates in tiles."""
    start, first, second = np.array(corner), np.array(along), np.array(across)
    points = [start, start + first, start + first + second, start + second]
    mesh = bpy.data.meshes.new("surface")
    mesh.from_pydata([point.tolist() for point in points], [], [(0, 1, 2, 3)])
    width, height = np.linalg.norm(first) / finish.tile, np.linalg.norm(second) / finish.tile
    layer = mesh.uv_layers.new()
    layer.data.foreach_set("uv", np.array([0, 0, width, 0, width, height, 0, height], np.float32))
    mesh.materials.append(material)
    thing = bpy.data.objects.new("surface", mesh)
    bpy.context.scene.collection.objects.link(thing)


def _material(bpy: Any, name: str, finish: Finish, textures: Sequence[Path]) -> Any:
    """Paint, or a texture times a colour."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree = material.node_tree
    node = next(n for n in tree.nodes if n.type == "BSDF_PRINCIPLED")
    node.inputs["Roughness"].default_value = finish.roughness
    node.inputs["Base Color"].default_value = (*finish.colour, 1.0)
    if finish.texture is not None:
        picture = tree.nodes.new("ShaderNodeTexImage")
        picture.image = bpy.data.images.load(str(textures[finish.texture]), check_existing=True)
        mix = tree.nodes.new("ShaderNodeMix")
        mix.data_type, mix.blend_type = "RGBA", "MULTIPLY"
        mix.inputs[0].default_value = 1.0
        factors = [socket for socket in mix.inputs if socket.type == "RGBA"]
        tree.links.new(picture.outputs["Color"], factors[0])
        factors[1].default_value = (*finish.colour, 1.0)
        result = next(socket for socket in mix.outputs if socket.type == "RGBA")
        tree.links.new(result, node.inputs["Base Color"])
    return material


def _lamp(bpy: Any, lamp: Lamp) -> None:
    data = bpy.data.lights.new(lamp.kind, lamp.kind.upper())
    data.energy, data.color = lamp.strength, lamp.colour
    if lamp.kind == "area":
        data.shape, data.size = "SQUARE", lamp.size
    else:
        data.angle = lamp.size
    thing = bpy.data.objects.new(lamp.kind, data)
    back = np.array(lamp.position) - np.array(lamp.target)
    back /= np.linalg.norm(back)
    aside = np.cross([0.0, 0.0, 1.0], back)
    aside = aside / np.linalg.norm(aside) if np.linalg.norm(aside) > 1e-3 else np.array([1.0, 0, 0])
    thing.matrix_world = _columns(aside, np.cross(back, aside), back, lamp.position)
    thing.visible_camera = False
    bpy.context.scene.collection.objects.link(thing)


def _sky(bpy: Any, sky: Sky) -> None:
    """A world that goes from the colour of the horizon to that of the zenith."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 64
    tree = world.node_tree
    background = next(n for n in tree.nodes if n.type == "BACKGROUND")
    background.inputs["Strength"].default_value = sky.strength
    place = tree.nodes.new("ShaderNodeTexCoord")
    split = tree.nodes.new("ShaderNodeSeparateXYZ")
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].color = (*sky.horizon, 1.0)
    ramp.color_ramp.elements[1].color = (*sky.zenith, 1.0)
    ramp.color_ramp.elements[1].position = 0.6
    tree.links.new(place.outputs["Generated"], split.inputs[0])
    tree.links.new(split.outputs["Z"], ramp.inputs[0])
    colour = ramp.outputs["Color"]
    if sky.clouds > 0:
        colour = _clouds(tree, place, colour, sky)
    tree.links.new(colour, background.inputs["Color"])


def _clouds(tree: Any, place: Any, below: Any, sky: Sky) -> Any:
    """White over the colours of a sky, where a noise is high."""
    noise = tree.nodes.new("ShaderNodeTexNoise")
    noise.noise_dimensions = "4D"
    noise.inputs["W"].default_value, noise.inputs["Scale"].default_value = sky.place, 2.5
    noise.inputs["Detail"].default_value = 5.0
    tree.links.new(place.outputs["Generated"], noise.inputs["Vector"])
    cover = tree.nodes.new("ShaderNodeValToRGB")
    low = 0.68 - 0.3 * sky.clouds
    cover.color_ramp.elements[0].position, cover.color_ramp.elements[1].position = low, low + 0.2
    tree.links.new(noise.outputs[0], cover.inputs[0])
    mix = tree.nodes.new("ShaderNodeMix")
    mix.data_type = "RGBA"
    mix.clamp_factor = True
    white = [socket for socket in mix.inputs if socket.type == "RGBA"]
    tree.links.new(cover.outputs["Color"], mix.inputs[0])
    tree.links.new(below, white[0])
    white[1].default_value = (0.95, 0.95, 0.97, 1.0)
    return next(socket for socket in mix.outputs if socket.type == "RGBA")
