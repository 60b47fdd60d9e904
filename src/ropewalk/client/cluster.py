"""``ropewalk.Cluster``: a Dask cluster object whose nodes the control plane runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from tornado.ioloop import IOLoop

from ropewalk.client import config, options, progress
from ropewalk.client import versions as version_check
from ropewalk.client.control import ClusterControl
from ropewalk.client.credentials import check_choice
from ropewalk.client.environment.sync import Software
from ropewalk.client.http import AsyncApi
from ropewalk.client.options import UNSET, Unset, WaitFor
from ropewalk.client.start import Starter
from ropewalk.errors import InputError
from ropewalk.schemas.clusters import ClusterCreate

__all__ = ["Cluster"]


class Cluster(ClusterControl):
    """A Dask cluster that the Ropewalk server runs.

    Everything that is not given is taken from Dask's configuration (``ropewalk.cluster.<argument>``), then from the
    cluster configuration (template) that ``configuration`` names, then from the server.

    A live cluster of the same ``name`` is re-attached: it is not rescaled, and not stopped by :meth:`close`.

    Args:
        n_workers: How many workers, 4 by default; or ``[minimum, maximum]`` for a cluster that adapts to its work.
        name: ``name`` or ``account/name``; by default one is made of your user name and random characters.
        account: Where it runs and who pays; by default ``ropewalk.account`` in the configuration, or your own.
        configuration: Name of a cluster configuration that fills in what is not given.
        software: Name of a software environment; by default your own packages, as they are here.
        worker_cpu: CPU cores of a worker (1).
        worker_memory: Memory of a worker, in bytes or as ``"4 GiB"`` (the default).
        worker_gpu: GPUs of a worker (0).
        worker_class: Class of the workers, or its import path (``distributed.Nanny``).
        worker_options: Keyword arguments of the worker class.
        scheduler_cpu: CPU cores of the scheduler (1).
        scheduler_memory: Memory of the scheduler (4 GiB).
        scheduler_options: Keyword arguments of ``distributed.Scheduler``.
        container: Image of the nodes, where they run in containers; by default that of the cloud account.
        package_sync: Whether nodes get the packages of this program where neither an environment nor an image is
            named: True by default. It costs nothing where nodes run from the very files that this program runs from.
        spot_policy: ``"on-demand"`` (the default), ``"spot"`` for workers on capacity that the cloud may take back, or
            ``"spot_with_fallback"`` for that where there is some, and on demand where there is none.
        environ: Environment variables of every node.
        idle_timeout: Stop after so long without tasks (``"20 minutes"``); None: never.
        no_client_timeout: Stop after so long without a client; None: never (the default).
        cluster_timeout: Stop at this age; None: never (the default).
        tags: Tags of what is made in the cloud.
        backend_options: Options of the cloud account's backend.
        credentials: For data in AWS: ``"account"`` (the default), what the cloud account gives to nodes, in AWS its
            task role; ``"local"``, tokens of this program's own AWS credentials too, which expire within the hour and
            are renewed for as long as it runs; None: nothing is lent.
        wait_for_workers: What to wait for at the start: True for all workers, False for none, a number of them, or a
            fraction (0.3 by default).
        timeout: How long the start may take (``"5 minutes"``); then it fails and the cluster is stopped.
        shutdown_on_close: Whether :meth:`close` stops the cluster. By default yes if this call created it.
        asynchronous: For use in coroutines: ``await Cluster(asynchronous=True)`` or ``async with``.
        loop: The Tornado loop to use; by default one is found or started.
        show_progress: Show what is waited for: True also where there is neither a terminal nor a notebook, False never.
        quiet: Show and log nothing.
        versions: What to do when packages here and there differ: ``"warn"``, ``"error"`` or ``"ignore"``.
        server: Address of the Ropewalk server, if not the configured one.
        token: Token for it, if not the configured one.

    Raises:
        InputError: an argument is wrong.
        ClusterStartError: the cluster did not start; says which node failed, why, and the end of its log.
        ClusterUnreachableError: it runs, but its scheduler cannot be reached from here; says which hop failed.
        VersionMismatchError: packages differ, and ``versions="error"``.
        RopewalkError: the server said no, or is not there.
    """

    def __init__(
        self,
        n_workers: int | Sequence[int] | None = None,
        *,
        name: str | None = None,
        account: str | None = None,
        configuration: str | None = None,
        software: str | None = None,
        worker_cpu: float | None = None,
        worker_memory: int | str | None = None,
        worker_gpu: int | None = None,
        worker_class: str | type | None = None,
        worker_options: Mapping[str, Any] | None = None,
        scheduler_cpu: float | None = None,
        scheduler_memory: int | str | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        container: str | None = None,
        package_sync: bool | None = None,
        spot_policy: str | None = None,
        environ: Mapping[str, str] | None = None,
        idle_timeout: float | str | Unset | None = UNSET,
        no_client_timeout: float | str | Unset | None = UNSET,
        cluster_timeout: float | str | Unset | None = UNSET,
        tags: Mapping[str, str] | None = None,
        backend_options: Mapping[str, Any] | None = None,
        credentials: str | Unset | None = UNSET,
        wait_for_workers: WaitFor | None = None,
        timeout: float | str | None = None,
        shutdown_on_close: bool | None = None,
        asynchronous: bool = False,
        loop: IOLoop | None = None,
        show_progress: bool | None = None,
        quiet: bool = False,
        versions: str | None = None,
        server: str | None = None,
        token: str | None = None,
    ) -> None:
        account, name = config.split_name(options.from_config("name", name), account)
        sizes = {
            "n_workers": n_workers,
            "name": name,
            "configuration": configuration,
            "software": software,
            "worker_cpu": worker_cpu,
            "worker_memory": worker_memory,
            "worker_gpu": worker_gpu,
            "worker_class": worker_class,
            "worker_options": worker_options,
            "scheduler_cpu": scheduler_cpu,
            "scheduler_memory": scheduler_memory,
            "scheduler_options": scheduler_options,
            "container": container,
            "spot_policy": spot_policy,
            "environ": environ,
            "idle_timeout": idle_timeout,
            "no_client_timeout": no_client_timeout,
            "cluster_timeout": cluster_timeout,
            "tags": tags,
            "backend_options": backend_options,
        }
        self._lend = check_choice(config.get("cluster.credentials") if credentials is UNSET else credentials)
        self._prepare(
            options.build_request(sizes),
            account=account,
            attach_only=False,
            package_sync=bool(options.from_config("package_sync", package_sync)),
            wait_for_workers=wait_for_workers,
            timeout=timeout,
            shutdown_on_close=shutdown_on_close,
            asynchronous=asynchronous,
            loop=loop,
            show_progress=show_progress,
            quiet=quiet,
            versions=versions,
            server=server,
            token=token,
        )

    @classmethod
    def from_name(
        cls,
        name: str,
        account: str | None = None,
        *,
        wait_for_workers: WaitFor | None = False,
        timeout: float | str | None = None,
        shutdown_on_close: bool | None = None,
        asynchronous: bool = False,
        loop: IOLoop | None = None,
        show_progress: bool | None = None,
        quiet: bool = False,
        versions: str | None = None,
        server: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Return the live cluster of that name; never makes one. Arguments as in the class.

        Raises:
            NotFoundError: there is none.
        """
        account, name_only = config.split_name(name, account)
        if name_only is None:
            raise InputError("A name is needed.", advice="`ropewalk cluster list` shows them.", field="name")
        self = cls.__new__(cls)
        self._prepare(
            ClusterCreate(name=name_only),
            account=account,
            attach_only=True,
            package_sync=False,
            wait_for_workers=wait_for_workers,
            timeout=timeout,
            shutdown_on_close=shutdown_on_close,
            asynchronous=asynchronous,
            loop=loop,
            show_progress=show_progress,
            quiet=quiet,
            versions=versions,
            server=server,
            token=token,
        )
        return self

    def _prepare(
        self,
        request: ClusterCreate,
        *,
        account: str | None,
        attach_only: bool,
        package_sync: bool,
        wait_for_workers: WaitFor | None,
        timeout: float | str | None,
        shutdown_on_close: bool | None,
        asynchronous: bool,
        loop: IOLoop | None,
        show_progress: bool | None,
        quiet: bool,
        versions: str | None,
        server: str | None,
        token: str | None,
    ) -> None:
        """Take note of what is wanted; and unless coroutines are going to await it, start."""
        self._request = request
        self._wait = options.parse_wait(options.from_config("wait_for_workers", wait_for_workers))
        self._timeout = options.parse_seconds(config.get("timeout") if timeout is None else timeout, "timeout")
        self._versions = config.get("versions") if versions is None else versions
        version_check.check_action(self._versions)
        login = config.current_login(server=server, token=token)
        self._server = login.server
        self._api = AsyncApi(login.server, login.require_token())
        self._progress = progress.Progress(progress.choose(show=show_progress, quiet=quiet))
        self._software = Software(
            self._api,
            sync=package_sync,
            versions=str(self._versions),
            step=self._progress.step,
            say=self._said,
            patient=self._be_patient,
        )
        self._starter = Starter(
            self._api,
            login,
            request,
            account=account,
            attach_only=attach_only,
            progress=self._progress,
            software=self._software,
            on_event=self._on_event,
            on_change=self._on_change,
        )
        self._shutdown_on_close = options.from_config("shutdown_on_close", shutdown_on_close)
        self._begin_anew()
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=request.name or "")
        if not asynchronous:
            self._start_and_wait()
