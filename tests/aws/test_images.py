"""Images in ECR: what is missing is sent, in parts, verified; through a real server, by the command line, resumed."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.images import EcrImages
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.port import Place
from ropewalk.client import archive, calls, images
from ropewalk.client.http import Api
from ropewalk.errors import FixItError, InputError, NotFoundError, RopewalkError
from ropewalk.schemas.aws_permissions import Phase
from ropewalk.schemas.aws_policy import policy
from ropewalk.schemas.cloud_accounts import SetHosted
from ropewalk.schemas.images import PART_BYTES, UploadStart
from tests.support import aws_world
from tests.support.aws_team import prepared_team
from tests.support.ministack import REGION, Double
from tests.support.server_process import PROGRAM
from tests.unit.test_archive import Layout, digest_of

pytestmark = pytest.mark.timeout(600)  # a server and AWS's double, each a process of its own, on a busy machine

PLACE = Place("i-images", "ca-images", "team")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SENDING = ("ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload")
BIG = random.Random(1).randbytes(PART_BYTES + 1000)
"""A layer of two parts."""


def sent(aws: Double) -> dict[str, int]:
    """Return how often each action that sends bytes was called."""
    return {action.removeprefix("ecr:"): aws.calls().get(action, 0) for action in SENDING}


@pytest.fixture
async def store(aws: Double) -> AsyncIterator[EcrImages]:
    """The repository of a cloud account, with a key that has just the rights for images."""
    resources = aws_world.furnish(aws, PLACE)
    settings = aws_world.settings()
    api = Aws(aws.make_user(policy([Phase.IMAGES])), REGION, endpoint_url=aws.endpoint)
    yield EcrImages(api, Infrastructure(settings, resources))
    await api.close()


async def put(store: EcrImages, *layers: bytes, tag: str = "v1") -> str:
    """Push an image in one part a blob; returns its digest."""
    layout = Layout()
    entry = layout.image(*layers)
    manifest = layout.files[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"]
    value = json.loads(manifest)
    digests = [part["digest"] for part in (value["config"], *value["layers"])]
    for digest in await store.missing(digests):
        data = layout.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
        upload = await store.begin(digest, len(data))
        assert await store.send(upload, 0, data) == len(data)
        await store.finish(upload, digest)
    image = await store.put(manifest, MANIFEST, tag)
    assert image.digest == entry["digest"]
    return image.digest


async def test_an_image_that_was_pushed_is_listed_with_what_to_give_as_container(store: EcrImages) -> None:
    digest = await put(store, b"a layer", tag="v1")
    (image,) = await store.images()
    assert (image.digest, image.tags) == (digest, ["v1"])
    assert image.reference.endswith(f"/{'ropewalk/' + PLACE.cloud_account}:v1")
    assert image.pushed_at is not None


async def test_blobs_that_are_there_are_not_sent_again(aws: Double, store: EcrImages) -> None:
    await put(store, b"common", b"old", tag="v1")
    aws.count_anew()
    await put(store, b"common", b"new", tag="v2")
    assert sent(aws)["InitiateLayerUpload"] == 1
    aws.count_anew()
    await put(store, b"common", b"new", tag="v2")
    assert sent(aws) == {"InitiateLayerUpload": 0, "UploadLayerPart": 0, "CompleteLayerUpload": 0}


async def test_bytes_that_are_not_those_of_the_digest_are_refused(store: EcrImages) -> None:
    digest = digest_of(b"what should have come")
    upload = await store.begin(digest, 5)
    await store.send(upload, 0, b"wrong")
    with pytest.raises(FixItError, match="not those of the digest"):
        await store.finish(upload, digest)
    assert await store.missing([digest]) == [digest]


async def test_an_upload_that_ecr_does_not_know_is_told_as_that(store: EcrImages) -> None:
    with pytest.raises(FixItError) as caught:
        await store.send("00000000-0000-0000-0000-000000000000", 0, b"data")
    assert caught.value.details["upload"] == "unknown"


async def test_a_part_whose_answer_was_lost_is_not_sent_again_from_the_beginning(aws: Double, store: EcrImages) -> None:
    upload = await store.begin(digest_of(b"onetwo"), 6)
    assert await store.send(upload, 0, b"one") == 3
    aws.inject("ecr:UploadLayerPart", "lost")
    assert await store.send(upload, 3, b"two") == 6
    assert await store.send(upload, 0, b"one") == 6  # who was ended goes on from what ECR has
    await store.finish(upload, digest_of(b"onetwo"))


async def test_a_tag_never_moves_to_another_image(store: EcrImages, aws: Double) -> None:
    name = f"ropewalk/{PLACE.cloud_account}"
    aws.client("ecr").put_image_tag_mutability(repositoryName=name, imageTagMutability="IMMUTABLE")
    digest = await put(store, b"one", tag="v1")
    with pytest.raises(FixItError, match="'v1' already") as caught:
        await put(store, b"two", tag="v1")
    assert caught.value.field == "tag"
    assert [image.digest for image in await store.images() if "v1" in image.tags] == [digest]


async def test_an_image_is_deleted_and_deleting_it_again_is_no_error(store: EcrImages) -> None:
    digest = await put(store, b"layer")
    await store.delete(digest)
    assert await store.images() == []
    await store.delete(digest)


async def test_a_right_that_is_missing_is_named(aws: Double) -> None:
    resources = aws_world.furnish(aws, PLACE)
    some = policy([Phase.IMAGES])
    for statement in some["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != "ecr:UploadLayerPart"]
    api = Aws(aws.make_user(some), REGION, endpoint_url=aws.endpoint)
    try:
        with pytest.raises(FixItError, match="ecr:UploadLayerPart"):
            await put(EcrImages(api, Infrastructure(aws_world.settings(), resources)), b"layer")
    finally:
        await api.close()


# Through a server.


@pytest.fixture
def team(aws: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server whose only user, ada, has an AWS account that is prepared."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with prepared_team(aws, tmp_path / "data", monkeypatch) as api:
        yield api


def layout(folder: Path, *layers: bytes, name: str = "dask:1") -> Path:
    made = Layout()
    entry = made.image(*layers, annotations={"org.opencontainers.image.ref.name": name})
    return made.index(entry).folder(folder)


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def test_the_command_line_pushes_lists_and_deletes(aws: Double, team: Api, tmp_path: Path) -> None:
    path = layout(tmp_path / "image", b"small", BIG)

    def run(*arguments: str) -> str:
        done = subprocess.run([*PROGRAM, "image", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ropewalk.Cluster(container=" in run("push", str(path))
    assert sent(aws)["UploadLayerPart"] == 4, "configuration, small layer, and two parts of the large one"
    (image,) = json.loads(run("list", "--json"))
    assert image["tags"] == ["dask-1"]
    assert image["reference"] in run("list")
    aws.count_anew()
    run("push", str(path))
    assert sum(sent(aws).values()) == 0
    run("delete", "dask-1", "--yes")
    assert json.loads(run("list", "--json")) == []


def test_a_push_that_was_interrupted_goes_on_where_it_was(aws: Double, team: Api, tmp_path: Path) -> None:
    path = layout(tmp_path / "image", BIG)
    aws.inject("ecr:UploadLayerPart", "error", code="ServerException", status=500, skip=1, times=50)
    with pytest.raises(RopewalkError):
        images.push(team, "ada", path, progress=quiet)
    aws.heal()
    with archive.open_source(path) as source:
        large = source.blobs[-1]
    before = len([1 for action, outcome in aws.outcomes() if (action, outcome) == ("ecr:UploadLayerPart", "ok")])
    aws.count_anew()
    image = images.push(team, "ada", path, progress=quiet)
    # Two blobs have three parts in all; none that arrived is sent again, and no upload of the large one is begun anew.
    assert sent(aws)["UploadLayerPart"] == 3 - before
    assert large.size > PART_BYTES
    assert image.tags == ["dask-1"]


def test_an_upload_that_the_registry_lost_is_begun_again(team: Api, tmp_path: Path) -> None:
    path = layout(tmp_path / "image", b"layer")
    with archive.open_source(path) as source:
        digests = [blob.digest for blob in source.blobs]
    journal = Path(os.environ["XDG_CACHE_HOME"]) / "ropewalk" / "uploads.json"
    journal.parent.mkdir(parents=True)
    lost = {f"{team.server} ada {digest}": {"id": "gone", "offset": 1} for digest in digests}
    journal.write_text(json.dumps(lost))
    assert images.push(team, "ada", path, progress=quiet).tags == ["dask-1"]
    assert json.loads(journal.read_text()) == {}


def test_progress_ends_with_all_bytes(team: Api, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    images.push(team, "ada", layout(tmp_path / "image", BIG), progress=lambda *now: told.append(now))
    assert told[0] == (0, told[0][1])
    assert told[-1][0] == told[-1][1] > len(BIG)


def test_an_archive_without_a_name_needs_a_tag(team: Api, tmp_path: Path) -> None:
    path = layout(tmp_path / "image", b"layer", name="not a name")
    with pytest.raises(InputError, match="--tag"):
        images.push(team, "ada", path, progress=quiet)
    assert images.push(team, "ada", path, tag="mine", progress=quiet).tags == ["mine"]


def test_what_cannot_be_is_refused_by_the_server(team: Api) -> None:
    with pytest.raises(InputError):
        team(calls.put_image("ada", "v1", b"{}", MANIFEST))
    with pytest.raises(InputError, match="not one of a single image"):
        team(calls.put_image("ada", "v1", b"{}", "application/vnd.oci.image.index.v1+json"))
    with pytest.raises(NotFoundError):
        team(calls.delete_image("ada", "no-such-image"))
    upload = team(calls.begin_upload("ada", UploadStart(digest=digest_of(b"x"), size=1)))
    with pytest.raises(RopewalkError, match=r"from 1 to|413|large"):
        team(calls.send_part("ada", upload, b"x" * (PART_BYTES + 1)))


def test_hosted_accounts_have_no_registry_and_are_told(team: Api) -> None:
    team(calls.set_cloud_account("ada", SetHosted(kind="hosted")))
    with pytest.raises(FixItError, match="no registry for images"):
        team(calls.list_images("ada"))
