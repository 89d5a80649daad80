"""The command line: each command parses, calls public verbs, and shows what came of it."""

import difflib
import functools
import inspect
import math
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import typer
from rich.console import Console

import crosscope as cs
from crosscope.terminal.description import (
    describe,
    lines_of,
    read_accepted,
)
from crosscope.terminal.display import progress_of, say, show_json, summary_table, trust_line
from crosscope.terminal.quickstart import travel

app = typer.Typer(
    name="crosscope",
    help="See through one fluorescence microscope as if it were another.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Seed = Annotated[int, typer.Option(help="Of the random numbers.", min=0)]
OneChannel = Annotated[str | None, typer.Option(help="Of an image with several.")]
PixelSize = Annotated[
    float | None, typer.Option(min=1e-3, help="Where the file says nothing, or is wrong.")
]
Offset = Annotated[float | None, typer.Option(help="Grey level of zero light; else the model's.")]
Command = TypeVar("Command", bound=Callable[..., Any])


def command(function: Command) -> Command:
    """Make a function a command: an error meant for the user becomes one line and an exit code."""

    @functools.wraps(function)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            code = function(*args, **options)
        except cs.CrosscopeError as error:
            say(f"crosscope: {error}")
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            what = f"{error.filename or 'a file'}: {error.strerror or error}"
            say(f"crosscope: {what}. Check the name, your rights and the free space.")
            raise typer.Exit(cs.InputError.exit_code) from error
        except KeyboardInterrupt:
            say("Stopped.")
            raise typer.Exit(130) from None
        raise typer.Exit(code or 0)

    guarded.__doc__ = inspect.cleandoc(function.__doc__ or "")
    app.command(name=function.__name__.rstrip("_"))(guarded)
    return function


@command
def quickstart(
    out: Annotated[Path, typer.Argument(help="Folder for everything it makes.")] = Path(
        "quickstart"
    ),
    minutes: Annotated[float, typer.Option(min=1e-3, help="Of training.")] = 2.5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Walk the whole path on a simulated microscope, from raw pairs to a table and a picture.

    Confocal and STED images of beads are simulated, misaligned, registered, and a model is
    trained, judged on fields it never saw, and applied.

    Example: crosscope quickstart
    """
    cs.require_free(out, overwrite=overwrite)
    if out.is_dir():
        shutil.rmtree(out)
    report = travel(out, minutes=minutes, seed=seed, work=progress_of, say=say)
    if json:
        show_json(report.json)
        return
    _show(report, out / "report")
    say(f"The model is {out / 'run' / 'model.zip'}, what it made of the test {out / 'predicted'}.")


@command
def simulate(
    system: Annotated[str, typer.Argument(help="confocal-sted, widefield-20x or tirf-sim.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    sample: Annotated[
        str | None, typer.Option(help="beads, filaments, actin, nuclei or pits.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="dapi, fitc or txred, of widefield-20x.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1)] = 8,
    size_px: Annotated[int, typer.Option(min=32, help="Side of the target image.")] = 512,
    frames: Annotated[
        int, typer.Option(min=1, help="More than one: time-lapses, 3 s a frame.")
    ] = 1,
    photons: Annotated[
        float | None,
        typer.Option(help="Peak of a typical object above background, in the source."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Simulate raw pairs of two modalities with known truth: OUT/source, OUT/target, OUT/truth.

    Example: crosscope simulate confocal-sted raw --pairs 16 --seed 1
    """
    simulated = cs.simulate(
        system,
        sample=sample,
        channel=channel,
        pairs=pairs,
        size_px=size_px,
        frames=frames,
        photons=photons,
        seed=seed,
    )
    with progress_of("simulate") as tell:
        count = cs.write_simulation(
            simulated, out, overwrite=overwrite, progress=lambda n: tell(n / pairs, f"{n} pairs")
        )
    folders = {name: str(out / name) for name in ("source", "target", "truth")}
    if json:
        show_json({"pairs": count} | folders)
    else:
        typer.echo(f"{count} pairs in {out}")


@command
def register(
    source: Annotated[Path, typer.Argument(help="File or folder of the modality you have.")],
    target: Annotated[Path, typer.Argument(help="File or folder of the modality you want.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    rigid: Annotated[
        bool, typer.Option("--rigid", help="A shift and a turn only, as on one stage.")
    ] = False,
    max_residual_px: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help="Refuse pairs above; else 0.2, or 5 % of the source's finest period.",
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Keep pairs above, marked; training will use them.")
    ] = False,
    channel: Annotated[
        str | None, typer.Option(help="Of images with several: only this one.")
    ] = None,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="Register every channel by itself.")
    ] = False,
    register_on: Annotated[
        str | None, typer.Option(help="Register this channel, the others by its transform.")
    ] = None,
    source_pixel_size_nm: Annotated[float | None, typer.Option(min=1e-3)] = None,
    target_pixel_size_nm: Annotated[float | None, typer.Option(min=1e-3)] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="CSV: source_y_px,source_x_px,target_y_px,target_x_px[,pair]."),
    ] = None,
    source_flat: Annotated[
        Path | None, typer.Option(help="Image of an even field, to divide by.")
    ] = None,
    target_flat: Annotated[Path | None, typer.Option(help="The same for the target.")] = None,
    hot_pixels: Annotated[
        bool, typer.Option("--hot-pixels", help="Replace hot pixels by their neighbours.")
    ] = False,
    stitch: Annotated[
        bool, typer.Option("--stitch", help="SOURCE and TARGET are tile scans: one image each.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Pairs at a time; else one a core.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there and has changed.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Bring raw pairs to one grid: OUT/source, OUT/target, OUT/pairs.json, OUT/registration.html.

    Every pair gets a residual, measured on blocks that were not fitted; those above the limit are
    refused. An interrupted run goes on where it stopped.

    Example: crosscope register raw/source raw/target pairs
    """
    if (channel is not None) + per_channel + (register_on is not None) > 1:
        raise cs.InputError(
            "register",
            "--channel, --per-channel and --register-on exclude each other",
            "Choose one of them",
        )
    plan = cs.RegistrationPlan(
        rigid=rigid,
        max_residual_px=max_residual_px,
        keep_all=all_,
        channel=channel,
        per_channel=per_channel,
        register_on=register_on,
        source_pixel_size_nm=source_pixel_size_nm,
        target_pixel_size_nm=target_pixel_size_nm,
        landmarks=landmarks,
        source_flat=source_flat,
        target_flat=target_flat,
        hot_pixels=hot_pixels,
        stitch=stitch,
    )
    with progress_of("register") as tell:
        registered = cs.register_files(
            source,
            target,
            out,
            plan=plan,
            overwrite=overwrite,
            workers=workers,
            watch=tell,
        )
    for failure in registered.failures:
        say(f"crosscope: {failure}")
    accepted = [pair for pair in registered.pairs if pair["accepted"]]
    if json:
        show_json({"pairs": registered.pairs})
    else:
        for pair in registered.pairs:
            typer.echo(_line_of(pair))
            for sentence in pair.get("assumed", []):
                say(f"{pair['name']}: {sentence}")
        typer.echo(f"{len(accepted)} of {len(registered.pairs)} pairs registered, in {out}")
    return registered.exit_code


@command
def train(
    pairs: Annotated[Path, typer.Argument(help="Folder that register wrote.")],
    run: Annotated[Path, typer.Argument(help="New folder for the model and its log.")],
    channel: Annotated[
        str | None, typer.Option(help="Of pairs of several: one model, one channel.")
    ] = None,
    preset: Annotated[Literal["fast", "paper"], typer.Option()] = "fast",
    base: Annotated[
        int | None, typer.Option(min=1, help="Width of the network: 32 in fast, 64 in paper.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget; 10 where none is given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget, instead of minutes.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from this model (transfer learning): a file, or the name of one that comes "
            "with the program."
        ),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(help="Batches that make one step, one in memory at a time.")
    ] = 1,
    haze: Annotated[
        float,
        typer.Option(min=0, help="Move the source's background by up to this part of its scale."),
    ] = 0.0,
    seed: Seed = 0,
    members: Annotated[
        int,
        typer.Option(
            min=1,
            max=5,
            help="Networks that learn the same from other beginnings, for `predict --check full`: "
            "each takes the budget once.",
        ),
    ] = 1,
    threads: Annotated[int | None, typer.Option(help="Else by measurement.")] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Else by measurement.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other field of cs.TrainingPlan, as mse_share=0.93; once for each field.",
        ),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve",
            help="Train on parts of the pairs, too: each takes the budget once more.",
        ),
    ] = False,
    claims: Annotated[
        bool,
        typer.Option(
            "--claims/--no-claims",
            help="Measure at the end from where points are told apart: a quarter of a minute.",
        ),
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN stopped.")] = False,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Train a model on registered pairs: RUN/model.zip, RUN/log.jsonl, RUN/tensorboard.

    Several processes train one model together: torchrun --nproc-per-node 2 -m crosscope train ...

    Example: crosscope train pairs run --minutes 10
    """
    given: dict[str, Any] = {
        "base": base,
        "minutes": minutes,
        "steps": steps,
        "threads": threads,
        "precision": precision,
        "accumulate": accumulate,
        "haze": haze,
    }
    make_plan = cs.paper_plan if preset == "paper" else cs.TrainingPlan
    chosen = {key: value for key, value in given.items() if value is not None}
    plan = make_plan(seed=seed, **chosen, **_read_fields(set_ or []))
    start = cs.Model.load(init) if init else None
    registered = read_accepted(pairs, channel=channel)
    processes = cs.join_processes()
    if not resume:
        cs.require_free(run, overwrite=overwrite, inputs=[pairs, *([init] if init else [])])
        processes.wait()  # before the first one puts something there
        if processes.first and run.is_dir():
            shutil.rmtree(run)
    show = progress_of if processes.first else _show_nothing
    with show("train") as tell:
        model = cs.train(
            registered,
            plan,
            run=run,
            init=start,
            resume=resume,
            watch=lambda moment: tell(moment.done, moment.text),
            say=say,
        )
    path = run / "model.zip"
    if processes.first and not path.exists():  # that of a finished run is worth more
        model = model.save(path)
    if members > 1:  # the first is safe by now
        with show("members") as tell:
            model = cs.train_members(
                registered,
                plan,
                model,
                count=members - 1,
                run=run,
                init=start,
                resume=resume,
                watch=lambda moment: tell(moment.done, moment.text),
                say=say,
            )
    if processes.first:
        model = _certified(model, registered, claims=claims).save(path, overwrite=True)
    if learning_curve:  # the model is safe by now
        with show("learning curve") as tell:
            model = cs.measure_learning_curve(
                registered,
                plan,
                model,
                init=start,
                watch=lambda moment: tell(moment.done, moment.text),
                say=say,
            )
        if processes.first:
            model = model.save(path, overwrite=True)
    if not processes.first:
        return
    result = {"model": str(path), **model.training}
    if json:
        show_json(result)
        return
    validation = model.training["validation"]
    typer.echo(
        f"{path}: {model.training['steps']} steps in {model.training['seconds']:.0f} s, "
        f"validation PSNR {validation['psnr_db']:.2f} dB, SSIM {validation['ssim']:.4f} "
        f"at step {model.training['best_step']}"
    )
    for point in model.training.get("learning_curve", []):
        typer.echo(f"{point['pairs']} pairs: validation PSNR {point['psnr_db']:.2f} dB")


@command
def calibrate(
    model: Annotated[Path, typer.Argument()],
    pairs: Annotated[Path, typer.Argument(help="Pairs that it was trained on.")],
    kept_aside: Annotated[
        Path, typer.Argument(help="Pairs that it has not seen, of 22 fields or more.")
    ],
    out: Annotated[Path, typer.Argument(help="New model file.")],
    channel: Annotated[
        str | None, typer.Option(help="Of pairs of several: one model, one channel.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Learn how far the target may be from the output: OUT is the model with intervals.

    Both folders are such as register writes. Where nothing can be promised, as with fewer than 22
    fields, there is no OUT.

    Example: crosscope calibrate run/model.zip pairs more-pairs calibrated.zip
    """
    cs.require_free(out, overwrite=overwrite, inputs=[model, pairs, kept_aside])
    loaded = cs.Model.load(model)
    learnt, aside = (read_accepted(folder, channel=channel) for folder in (pairs, kept_aside))
    with progress_of("calibrate") as tell:
        calibrated = cs.with_intervals(loaded, learnt, aside, seed=seed, watch=tell)
    found = cs.Calibration.from_json(calibrated.certificate["intervals"])
    if found.reason is None:
        calibrated.save(out, overwrite=overwrite)
    if json:
        written = None if found.reason else str(out)
        show_json({"model": written, **found.entry, "reason": found.reason})
    if found.reason:
        raise cs.PairError(kept_aside, found.reason, "Keep more fields of the same kind aside")
    if not json:
        typer.echo(f"{out}: {found.sentence}")


@command
def evaluate(
    model: Annotated[Path, typer.Argument()],
    pairs: Annotated[Path, typer.Argument(help="Folder that register wrote.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    channel: Annotated[
        str | None, typer.Option(help="Of pairs of several: one model, one channel.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Folder of noise-free targets, as simulate writes it.")
    ] = None,
    repeat: Annotated[
        Path | None,
        typer.Option(help="Folder of the targets taken a second time, to compare with."),
    ] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Measure a model on pairs it has not seen: OUT/report.html, report.json and picture.png.

    Example: crosscope evaluate run/model.zip test-pairs report --truth test-raw/truth
    """
    inputs = [model, pairs, *filter(None, (truth, repeat))]
    cs.require_free(out, overwrite=overwrite, inputs=inputs)
    loaded = cs.Model.load(model)
    registered = read_accepted(pairs, channel=channel)
    true_images = cs.read_truth(truth) if truth else None
    repeats = cs.read_truth(repeat) if repeat else None
    with progress_of("evaluate") as tell:
        report = cs.evaluate(loaded, registered, truth=true_images, repeat=repeats, watch=tell)
    report.save(out, overwrite=overwrite)
    if json:
        show_json(report.json)
    else:
        _show(report, out)


@command
def predict(
    model: Annotated[
        str, typer.Argument(help="Model file, or one a channel: DAPI=a.zip,FITC=b.zip.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Image, folder of images, or OME-Zarr.")
    ],
    output: Annotated[Path, typer.Argument(help="New image or folder, as the input.")],
    channel: OneChannel = None,
    pixel_size_nm: PixelSize = None,
    offset: Offset = None,
    tile_px: Annotated[int, typer.Option(min=16, help="Side of a tile: bounds memory.")] = 768,
    exact: Annotated[
        bool, typer.Option("--exact", help="Tiles overlap by all that the network sees.")
    ] = False,
    engine: Annotated[
        Literal["torch", "openvino"] | None, typer.Option(help="Else by measurement.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Else by measurement.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Else by measurement.")] = None,
    check: Annotated[
        Literal["none", "fast", "full"],
        typer.Option(help="Judge input and output; full: by its twin and members, too."),
    ] = "fast",
    force: Annotated[
        bool, typer.Option("--force", help="Use the model for what it was not made for.")
    ] = False,
    fidelity: Annotated[
        float,
        typer.Option(min=0, max=1, help="From the adversarial model, 0, to its twin, 1."),
    ] = 0.0,
    rolling_average: Annotated[
        float | None,
        typer.Option(
            help="Of a time-lapse: weight of the frame before, and of that after, 0 to 1/3."
        ),
    ] = None,
    intervals: Annotated[
        bool,
        typer.Option("--intervals", help="Write bounds of every pixel, too: see calibrate."),
    ] = False,
    dask: Annotated[
        str | None, typer.Option(help="Spread over a Dask cluster: tcp://scheduler:8786.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Or over so many processes of this machine.")
    ] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> int:
    """Turn images of the source modality into images of the target modality, with OUTPUT.json.

    An OME-Zarr or a large TIFF is done part by part; what was killed goes on when called again.

    With a model for each channel there is a colour composite beside each output, too: sharp.png.

    An image that the model was not made for is refused. Beside the output lies its trust map,
    sharp.trust.tif: tenths of the standard deviation by which it contradicts its input.

    With --intervals there are sharp.low.tif and sharp.high.tif, between which the target would be
    in 9 of 10 pixels of a field, and sharp.sure.tif: 2 where structure is surely there, 1 where
    that is uncertain, 0 elsewhere. It takes as long as three predictions in float32.

    Example: crosscope predict run/model.zip raw/source/0000.tif sharp.tif
    """
    plan = cs.PredictionPlan(
        channel=channel,
        pixel_size_nm=pixel_size_nm,
        offset=offset,
        engine=engine,
        threads=threads,
        precision=precision,
        tile_px=tile_px,
        exact=exact,
        force=force,
        fidelity=fidelity,
        rolling_average=rolling_average,
    )
    loaded = _load(model)
    spread = cs.connect(dask, workers=workers) if dask or workers else nullcontext()
    try:
        with spread as cluster, progress_of("predict") as tell:
            predicted = cs.predict_files(
                loaded,
                source,
                output,
                plan=plan,
                overwrite=overwrite,
                cluster=cluster,
                inspector=None if check == "none" else cs.Inspector(check),
                intervals=intervals,
                watch=tell,
                say=say,
            )
    except cs.DomainError as error:
        if json:
            show_json({"outputs": [cs.Failure(source, error).entry]})
        raise
    for failure in predicted.failures:
        say(f"crosscope: {failure.error}")
    if json:
        show_json({"outputs": predicted.outputs})
    else:
        for entry in predicted.outputs:
            if entry["output"]:
                for reason in entry["reasons"]:
                    say(f"{entry['input']}: {reason}")
                if entry["verdict"]:
                    typer.echo(f"{entry['output']}: {_judged(entry['verdict'], entry['domain'])}")
        done = [entry for entry in predicted.outputs if entry["output"]]
        forced = sum(entry["domain"] == "outside" for entry in done)
        told = f" ({forced} forced: the model was not made for such images)" if forced else ""
        typer.echo(f"{output}: {len(done)} done{told}")
    return max((failure.exit_code for failure in predicted.failures), default=0)


@command
def check(
    model: Annotated[
        str, typer.Argument(help="Model file, or one a channel: DAPI=a.zip,FITC=b.zip.")
    ],
    image: Annotated[
        Path, typer.Argument(help="Raw, of the source modality: file, folder, or OME-Zarr.")
    ],
    output: Annotated[Path | None, typer.Argument(help="What was made of it.")] = None,
    channel: OneChannel = None,
    pixel_size_nm: PixelSize = None,
    offset: Offset = None,
    fidelity: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="That it was predicted with; else, as all this, as OUTPUT.json says."
        ),
    ] = None,
    rolling_average: Annotated[
        float | None,
        typer.Option(help="That it was predicted with; else as OUTPUT.json says."),
    ] = None,
    level: Annotated[
        Literal["fast", "full"], typer.Option(help="full: by its twin and members, too.")
    ] = "fast",
    map_: Annotated[
        Path | None,
        typer.Option(
            "--map", help="Write the trust map of the output; of a folder a folder of them."
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            help="Write its objects as CSV, how near they lie and which networks show them; of a "
            "folder a folder."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> int:
    """Say whether a model was made for an image, and how far an output of it can be believed.

    Of a folder every image is judged; OUTPUT is then what predict made of it, and so are the trust
    maps and the objects that are asked for. The exit code is that of the worst image: 3 where one
    is refused.

    Example: crosscope check run/model.zip raw/source/0000.tif sharp.tif --map doubt.tif
    """
    for new in filter(None, (map_, objects)):
        cs.require_free(new, overwrite=overwrite, inputs=[Path(model)])
    with progress_of("check") as tell:
        found = cs.check_files(
            _load(model),
            image,
            output,
            plan=cs.PredictionPlan(
                channel=channel,
                pixel_size_nm=pixel_size_nm,
                offset=offset,
                rolling_average=rolling_average,
            ),
            fidelity=fidelity,
            level=level,
            trust=map_,
            objects=objects,
            overwrite=overwrite,
            watch=tell,
        )
    if json:
        folder = image.is_dir() and not cs.is_slide(image)
        entries = [each.entry for each in found]
        show_json({"images": entries} if folder else entries[0])
        return max(each.exit_code for each in found)
    for each in found:
        if isinstance(each, cs.Failure):
            say(f"crosscope: {each.error}")
            continue
        for reason in each.verdict.reasons:
            say(f"{each.input}: {reason}")
        typer.echo(f"{each.input}: {_judged(each.verdict.verdict, each.verdict.domain)}")
        if each.support:
            close = "{close} closer to another than the model is known to tell apart"
            if each.support.claimed_px is None:
                close = "how close they may be is not claimed"
            told = "{objects} objects, {unsteady} of them unsteady between {networks} networks, "
            typer.echo((told + close).format(**each.support.json))
    return max(each.exit_code for each in found)


@command
def measure(
    what: Annotated[
        Literal["psf", "pairs", "frc", "decorrelation", "spectrum", "squirrel"],
        typer.Argument(metavar="MEASURE"),
    ],
    image: Annotated[Path, typer.Argument()],
    other: Annotated[
        Path | None, typer.Argument(help="frc: a repeat; squirrel: the image before.")
    ] = None,
    pixel_size_nm: Annotated[
        float | None, typer.Option(min=1e-3, help="Where the file says nothing.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table behind the figure.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it, as PNG.")] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Take one measure of an image: psf, pairs, frc, decorrelation, spectrum or squirrel.

    Example: crosscope measure frc first.tif second.tif --plot frc.png
    """
    for path in filter(None, (csv, plot)):
        cs.require_free(path, overwrite=overwrite, inputs=[image, *filter(None, (other,))])
    size = (pixel_size_nm, pixel_size_nm) if pixel_size_nm else None
    found = cs.measure(
        what,
        cs.read_image(image),
        cs.read_image(other) if other else None,
        pixel_size_nm=size,
    )
    if csv:
        found.write_csv(csv, overwrite=overwrite)
    if plot:
        found.draw(plot, overwrite=overwrite)
    if json:
        show_json(found.json)
    elif found.value is None:
        typer.echo(f"{what}: none, {found.reason}")
    else:
        interval = f" ({found.low:.4g} to {found.high:.4g})" if found.low and found.high else ""
        typer.echo(f"{what}: {found.value:.4g} {found.unit}{interval}, n = {found.n}")


@command
def info(
    path: Annotated[Path, typer.Argument(help="Image, folder of images or pairs, or model.")],
    json: AsJson = False,
) -> None:
    """Tell what the program understands of an image, a folder or a model, and what it assumes.

    Example: crosscope info cell.nd2
    """
    known = describe(path)
    if json:
        show_json(known)
        return
    typer.echo("\n".join(lines_of(known)))


@command
def models(json: AsJson = False) -> None:
    """List the models that come with the program; `crosscope info NAME` tells more.

    Example: crosscope models
    """
    known = cs.list_models()
    if json:
        show_json({"models": known})
        return
    if not known:
        say("None comes with this version: train one, or run a recipe of examples/.")
    for model in known:
        sizes = " to ".join(
            f"{model[key][0]:g}" for key in ("pixel_size_nm", "target_pixel_size_nm")
        )
        typer.echo(
            f"{model['name']}: {model['source']} to {model['target']}, {model['sample']}, "
            f"pixels {sizes} nm, {model['bytes'] / 1e6:.1f} MB"
        )


def main() -> None:
    """Run the command line; a program that is told to end tidies up first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    app()


def _load(model: str) -> "cs.Model | dict[str, cs.Model]":
    """Load a model file, or one for each channel named."""
    if "=" not in model or Path(model).exists():
        return cs.Model.load(model)
    named = [part.partition("=") for part in model.split(",")]
    for channel, _, path in named:
        if not channel or not path:
            reason = "is neither a model file nor a list of CHANNEL=FILE"
            raise cs.ModelError(model, reason, "Write it as DAPI=a.zip,FITC=b.zip")
    if len({channel for channel, _, _ in named}) < len(named):
        raise cs.ModelError(model, "names a channel twice", "Give each channel one model")
    return {channel: cs.Model.load(path) for channel, _, path in named}


_OPTION_OF = {
    "network": "--preset",
    "base": "--base",
    "minutes": "--minutes",
    "steps": "--steps",
    "accumulate": "--accumulate",
    "haze": "--haze",
    "seed": "--seed",
    "threads": "--threads",
    "precision": "--precision",
}


def _read_fields(given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE, fields of the training plan that have no option of their own."""
    if not given:
        return {}
    kinds = get_type_hints(cs.TrainingPlan)
    others = sorted(kinds.keys() - _OPTION_OF.keys())
    fields: dict[str, Any] = {}
    for text in given:
        where = f"--set {text}"
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise cs.InputError(where, "is not NAME=VALUE", "Write it as --set mse_share=0.93")
        if name in _OPTION_OF:
            raise cs.InputError(where, "has an option of its own", f"Use {_OPTION_OF[name]}")
        if name not in kinds:
            near = difflib.get_close_matches(name, others, n=1)
            remedy = f"The nearest is {near[0]}" if near else f"There are {', '.join(others)}"
            raise cs.InputError(where, "the plan has no field of this name", remedy)
        if name in fields:
            raise cs.InputError(where, f"{name} is given twice", "Give it once")
        fields[name] = _read_value(where, value, kinds[name])
    return fields


def _read_value(where: str, text: str, kind: Any) -> int | float | bool:
    """Read a value of a field whose type is bool, int or float, or one of these or None."""
    (kind,) = set(get_args(kind) or (kind,)) - {NoneType}
    words, read = _READERS[kind]
    try:
        return read(text)
    except (KeyError, ValueError) as error:
        raise cs.InputError(where, f"is not {words}", f"Give {words} after the =") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: dict[type, tuple[str, Callable[[str], Any]]] = {
    bool: ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
    int: ("a whole number", int),
    float: ("a number", _finite),
}


def _judged(verdict: str | None, domain: str | None) -> str:
    """Tell a verdict, and how the image is beside those that the model knows."""
    return f"{verdict or 'not judged'}; {_LIKENESS[domain]}"


_LIKENESS = {
    "inside": "the image is like those that the model learnt from (inside)",
    "near": "the image is somewhat unlike those that the model learnt from (near)",
    "outside": "the image is unlike those that the model learnt from (outside)",
    None: "it is not known what images the model learnt from",
}


def _certified(model: "cs.Model", pairs: "list[cs.RegisteredPair]", *, claims: bool) -> "cs.Model":
    """Return the model with its certificate; where that can't be had, as it is, and say why."""
    try:
        with progress_of("certify") as tell:
            return cs.certify(model, pairs, claims=claims, watch=tell)
    except cs.CrosscopeError as error:
        say(f"No certificate: {error}")
        return model


def _show_nothing(_: str) -> nullcontext[Callable[..., None]]:
    """Take the place of `progress_of` where another process shows the work."""
    return nullcontext(lambda *told: None)


def _show(report: "cs.Report", out: Path) -> None:
    wide = max(100, Console().width)  # no figure is cut off, in a pipe neither
    console = Console(width=wide)
    console.print(summary_table(report.summary))
    console.print(trust_line(report.json), highlight=False, markup=False, soft_wrap=True)
    say(f"Look at {out / 'report.html'}.")


def _line_of(pair: Mapping[str, Any]) -> str:
    """Tell in one line what became of a pair."""
    if not pair["accepted"] and not pair.get("file"):
        return f"{pair['name']}: left out, {pair['reason']}"
    y, x = pair["shift_px"]
    residual = pair["residual_px"]
    left = f", {residual:.3f} px left" if residual is not None else ""
    turned = (
        f", turned {pair['rotation_deg']:+.2f} degrees" if abs(pair["rotation_deg"]) > 5e-3 else ""
    )
    mirrored = ", mirrored" if pair["mirrored"] else ""
    bent = f", bent by up to {pair['elastic_px']:.1f} px" if pair["elastic_px"] else ""
    kept = "" if pair["accepted"] else f"; kept, though {pair['reason']}"
    return f"{pair['name']}: shift ({y:+.2f}, {x:+.2f}) px{turned}{mirrored}{bent}{left}{kept}"
