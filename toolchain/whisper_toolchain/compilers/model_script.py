"""Renders a graph's recipe as a model script (.alls), the vendor compiler's language for such things.

The commands and their arguments are those of the reference flow's scripts (FACTS section 2). Layers are named by the
numbers of the network as it was parsed, each under a comment with the model's own layer. Comments stand on lines of
their own, as in the reference's scripts.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from whisper_toolchain.compilers.vendor_layers import VendorLayer
from whisper_toolchain.errors import RecipeError
from whisper_toolchain.recipe import GraphRecipe, unmatched

SIXTEEN_BIT = "precision_mode=a16_w16"


@dataclass(frozen=True)
class ModelScript:
    """A rendered script.

    Attributes:
        text: the script.
        calibration_rows: how many rows of the calibration set it needs.
        warnings: what a user should know before hours of work, one line each.
    """

    text: str
    calibration_rows: int
    warnings: tuple[str, ...]


def render_model_script(
    recipe: GraphRecipe,
    graph: str,
    vendor: Sequence[VendorLayer],
    layers: Mapping[str, tuple[str, ...]],
    rows: int,
    arch: str,
    own_ends: Collection[str] | None = None,
) -> ModelScript:
    """Render one graph's recipe.

    The compiler fails, hours later, when it is asked for more rows than the calibration set has. So the sizes are
    cut to what there is, with a warning.

    Args:
        recipe: the graph's recipe.
        graph: "encoder" or "decoder", for comments and messages.
        vendor: the parsed network's layers in its order.
        layers: what `map_layers` returned for them.
        rows: rows of the calibration set.
        arch: such as "hailo8".
        own_ends: None for a network that is compiled. For one that has further outputs, only to be looked into: the
            ONNX names of the graph's own outputs. It is not fine-tuned, which takes hours, and further outputs have
            the bits of their layers.

    Raises:
        RecipeError: a pattern names no layer of the parsed network, a layer would get 16 bits that the architecture
            cannot give it, or there are no rows.
    """
    if rows < 1:
        raise RecipeError(f"{graph}: the calibration set has no rows")
    ours = [name for names in layers.values() for name in names]
    unknown = unmatched(recipe.sixteen_bit, ours)
    if unknown:
        raise RecipeError(
            f"{graph}: {', '.join(map(repr, unknown))}: names no layer of the parsed network: correct sixteen_bit in "
            f"the recipe's [{graph}]"
        )
    recipe.check_architecture(ours, arch, graph)

    warnings = []
    calibration_rows, finetune_rows = min(recipe.calibration.rows, rows), min(recipe.finetune.rows, rows)
    if own_ends is not None:
        finetune_rows = 0
        if rows < recipe.calibration.rows:
            warnings.append(f"{graph}: the recipe calibrates on {recipe.calibration.rows} windows, the set has {rows}")
    elif rows < max(recipe.calibration.rows, recipe.finetune.rows):
        warnings.append(
            f"{graph}: the recipe calibrates on {recipe.calibration.rows} windows and fine-tunes on "
            f"{recipe.finetune.rows}; the calibration set has {rows}, so fewer are used and accuracy will suffer: "
            f"set SAMPLES={max(recipe.calibration.rows, recipe.finetune.rows)} and DATASET=... with more speech"
        )
    lines = [
        f"# Whisper {graph} for {arch}, rendered from its recipe. The comment above a line names the model's layer.",
        "model_optimization_flavor(optimization_level=2, compression_level=0)",
        "model_optimization_config(calibration, "
        f"batch_size={min(recipe.calibration.batch, rows)}, calibset_size={calibration_rows})",
        # Said, for the flavor's level 2 fine-tunes unasked.
        "post_quantization_optimization(finetune, policy=disabled)"
        if own_ends is not None
        else _finetune(recipe, finetune_rows, rows),
    ]
    if recipe.separate_additions:
        lines += [
            "# residual additions stay layers of their own, so that they can have 16 bits",
            "pre_quantization_optimization(ew_add_fusing, policy=disabled)",
        ]
    if recipe.matmul_correction:
        lines.append(
            "pre_quantization_optimization(matmul_correction, layers={matmul*}, correction_type=zp_comp_block)"
        )
    if recipe.matmul_equalization:
        lines.append("pre_quantization_optimization(matmul_equalization, layers={matmul*}, matmul_bias=enabled)")
    if recipe.layer_norm_decomposition:
        lines.append(
            "pre_quantization_optimization(layer_norm_decomposition, "
            "bit_decomposition_mode=uniform_precision, equalization=disabled)"
        )
    lines += [
        # Without it in a network to be looked into: the ratios of dozens of outputs, under numbers that say nothing.
        "# log the signal-to-noise ratio of each output",
        f"model_optimization_config(checker_cfg, policy={'enabled' if own_ends is None else 'disabled'})",
    ]
    for layer in vendor:
        names = layers.get(layer.name, ())
        wide = [name for name in names if recipe.bits(name) == 16]
        if not wide:
            continue
        if len(wide) < len(names):
            others = ", ".join(name for name in names if name not in wide)
            warnings.append(f"{graph}: {others}: gets 16 bits too, being one layer with {', '.join(wide)}")
        lines += [f"# {', '.join(names)}", f"quantization_param({layer.short_name}, {SIXTEEN_BIT})"]
    if recipe.sixteen_bit_outputs:
        outputs = ["{output_layer*}"] if own_ends is None else _outputs_of(vendor, own_ends)
        lines += ["# the graph's outputs", *(f"quantization_param({output}, {SIXTEEN_BIT})" for output in outputs)]
        if not outputs:
            warnings.append(
                f"{graph}: the parsed network does not say which outputs are the graph's own: they do not get 16 bits"
            )
    lines += _compilation(recipe)
    return ModelScript("".join(f"{line}\n" for line in lines), max(calibration_rows, finetune_rows), tuple(warnings))


def _outputs_of(vendor: Sequence[VendorLayer], ends: Collection[str]) -> list[str]:
    """The output layers that came from one of these ONNX names."""
    return [
        layer.short_name
        for layer in vendor
        if layer.kind == "output_layer" and not set(ends).isdisjoint(layer.original_names)
    ]


def sixteen_bit_layers(script: str) -> list[str]:
    """The layers and globs to which a rendered script gives 16 bits, in its order."""
    prefix, suffix = "quantization_param(", f", {SIXTEEN_BIT})"
    return [
        line.removeprefix(prefix).removesuffix(suffix)
        for line in script.splitlines()
        if line.startswith(prefix) and line.endswith(suffix)
    ]


def _finetune(recipe: GraphRecipe, rows: int, available: int) -> str:
    finetune = recipe.finetune
    batch = "" if finetune.batch is None else f", batch_size={min(finetune.batch, available)}"
    return (
        f"post_quantization_optimization(finetune, policy=enabled, dataset_size={rows}, epochs={finetune.epochs}, "
        f"learning_rate={finetune.learning_rate:.12f}".rstrip("0")
        + f"{batch})"
    )


def _compilation(recipe: GraphRecipe) -> list[str]:
    compilation = recipe.compilation
    level = "compiler_optimization_level=max, " if compilation.slow_and_thorough else ""
    lines = [f"performance_param({level}optimize_for_batch={compilation.optimize_for_batch})"]
    if compilation.max_utilization is not None:
        lines.append(f"resources_param(max_utilization={compilation.max_utilization:g})")
    return lines
