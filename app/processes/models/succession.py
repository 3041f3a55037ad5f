"""What an engine serves that takes the place of another one: what that served, as far as it is there and right."""

from collections.abc import Iterable, Sequence

from app.bundle.files import Bundle
from app.engine.messages import Loaded, Serving
from app.errors import BundleError, StartupError
from app.processes.models.bad_bundles import BadBundles
from app.processes.models.small_files import SmallFiles
from app.settings import Settings
from app.tasks import TASKS
from app.tasks.catalog import check_models, load_model


def check_named(bundles: list[Bundle], settings: Settings) -> None:
    """Pass if these bundles can be served together, whichever others the settings name.

    Raises:
        BundleError: one is for a task that this server does not have, or not for that of which it is the default.
    """
    absent = settings.models_named - {bundle.name for bundle in bundles}
    try:
        check_models(bundles, TASKS, settings.default_model_pairs, bad=absent)
    except StartupError as error:
        raise BundleError(str(error)) from error


def to_serve(
    bundles: Sequence[Bundle], settings: Settings, files: SmallFiles, bad: BadBundles, previous: Serving | None
) -> list[Bundle]:
    """Return the bundles that an engine is to load, and keep their small files in the service's folder.

    The launch has checked those of the first engine. A later one finds others: it leaves out what an operator has unloaded, and
    what front ends could not serve is bad.
    """
    unloaded = () if previous is None else previous.unloaded
    bad.names[:] = [name for name in bad.names if name not in unloaded]
    right: list[Bundle] = []
    for bundle in bundles:
        if bundle.name in unloaded:
            continue
        with bad.skipping(bundle.name):
            check_named([*right, bundle], settings)
            copy = files.keep(bundle)
            if previous is not None:
                try:
                    load_model(copy)
                except BundleError as error:
                    raise BundleError(files.of_original(str(error), bundle)) from error
            right.append(bundle)
    return right


def as_before(bundles: Iterable[Bundle], previous: Serving | None) -> dict[str, Loaded]:
    """Return how the engine before had loaded those bundles that are still the same."""
    models = {} if previous is None else previous.models
    return {
        one.name: models[one.name]
        for one in bundles
        if one.name in models and models[one.name].identity == one.identity
    }
