"""Runs the rc files of `flux modprobe`: their setup functions, then their tasks among the modules.

The command starts this with a JSON object: the files, the modules with what is known of them, the
module that stands for each service, and what to do. The files import `task` from `flux.modprobe`;
that module is stood in for here, so only the general bindings are needed.
"""

import graphlib
import json
import os
import runpy
import subprocess
import sys
import types

import flux
import flux.idset

TASKS = {}
OPTIONS = {
    "ranks",
    "before",
    "after",
    "requires",
    "needs",
    "provides",
    "needs_attrs",
    "needs_config",
    "needs_env",
}


class Task:
    def __init__(self, name, function, options):
        self.name, self.function = name, function
        self.ranks = options.get("ranks") or "all"
        lists = {key: list(options.get(key) or []) for key in OPTIONS - {"ranks"}}
        self.__dict__.update(lists)
        for one, other in (("before", "after"), ("after", "before")):
            if "*" in lists[one] and lists[other]:
                raise ValueError(
                    f"{name}: cannot specify {one}=['*'] when {other} is also set"
                )
        on_rank(self.ranks, 0)


def task(name=None, *extra, **options):
    if not isinstance(name, str) or extra:
        raise ValueError("@task: missing required name argument")
    for key in options:
        if key not in OPTIONS:
            raise ValueError(f"{name}: unknown task argument {key}")

    def decorate(function):
        TASKS[name] = Task(name, function, options)
        return function

    return decorate


def on_rank(ranks, rank):
    ranks = str(ranks)
    if ranks == "all":
        return True
    try:
        if ranks[:1] == "<":
            return rank < int(ranks[1:])
        if ranks[:1] == ">":
            return rank > int(ranks[1:])
        return rank in flux.idset.IDset(ranks)
    except ValueError:
        raise ValueError(f"invalid idset '{ranks}'") from None


class Context:
    """What setup functions and tasks are given."""

    def __init__(self, order):
        self.handle = flux.Flux()
        self.rank = int(self.handle.attr_get("rank"))
        self.verbose = order["verbose"]
        self.modules = {module["name"]: module for module in order["modules"]}
        self.services = order["services"]
        self.loads, self.removes, self.values, self.env = [], None, {}, {}

    def setopt(self, module, options, overwrite=False):
        entry = self.modules[self.resolve(module)]
        entry["args"] = ([] if overwrite else entry["args"]) + options.split()

    def getopts(self, name, default=None, also=None):
        words = []
        for module in [name] + list(also or []):
            words += self.modules.get(self.resolve(module), {}).get("args", [])
        return words or (default or [])

    def load_modules(self, modules):
        self.loads += modules

    def remove_modules(self, modules=None):
        self.removes = modules or "all"

    def enable(self, name):
        name = self.resolve(name)
        if name in self.modules:
            self.modules[name].update(enabled=True, chosen=True)
        else:
            TASKS[name].enabled = True

    def set(self, key, value):
        self.values[key] = value

    def get(self, key, default=None):
        return self.values.get(key, default)

    def rpc(self, topic, *args, **kwargs):
        return self.handle.rpc(topic, *args, **kwargs)

    def attr_get(self, attr, default=None):
        try:
            return self.handle.attr_get(attr)
        except OSError:
            return default

    def conf_get(self, key, default=None):
        return self.handle.conf_get(key, default=default)

    def getenv(self, var, default=None):
        if var in os.environ:
            return os.environ[var]
        if var not in self.env:
            found = self.rpc("broker.getenv", {"names": [var]}).get()["env"]
            self.env[var] = found.get(var)
        value = self.env[var]
        return default if value is None else value

    def setenv(self, name_or_env, value=None):
        env = name_or_env if isinstance(name_or_env, dict) else {name_or_env: value}
        for name, text in env.items():
            if text is not None and not isinstance(text, str):
                raise ValueError(f"setenv: {name}: value must be a string or None")
        self.rpc("broker.setenv", {"env": env}).get()
        for name, text in env.items():
            self.env.pop(name, None)
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text

    def bash(self, command):
        subprocess.run(["bash", "-c", command], check=True)

    def print(self, *words):
        if self.verbose:
            print(*words, file=sys.stderr)

    def resolve(self, name):
        """The module or task that a name stands for."""
        if name in self.modules or name in TASKS:
            return name
        for item in TASKS.values():
            if name in item.provides:
                return item.name
        return self.services.get(name, name)

    def holds(self, key, get):
        wanted = not key.startswith("!")
        return (get(key.lstrip("!")) is not None) == wanted

    def is_enabled(self, name, below=()):
        name = self.resolve(name)
        if name in below:
            return False
        if name in self.modules:
            return self.modules[name]["enabled"]
        if name not in TASKS:
            return False
        item = TASKS[name]
        if getattr(item, "enabled", False):
            return True
        disabled = os.environ.get("FLUX_MODPROBE_DISABLE", "").split(",")
        return (
            name not in disabled
            and on_rank(item.ranks, self.rank)
            and all(self.holds(key, self.attr_get) for key in item.needs_attrs)
            and all(self.holds(key, self.conf_get) for key in item.needs_config)
            and all(self.holds(key, self.getenv) for key in item.needs_env)
            and all(self.is_enabled(need, (*below, name)) for need in item.needs)
        )

    def required(self, names):
        """Modules with all they require, of those that may be used here."""
        wanted, names = [], [self.resolve(name) for name in names]
        while names:
            name = names.pop(0)
            if name in wanted or name in TASKS:
                continue
            if name not in self.modules:
                raise ValueError(f"no such task or module {name}")
            if self.modules[name]["enabled"]:
                wanted.append(name)
                names += self.modules[name]["requires"]
        return wanted

    def load(self, name):
        module = self.modules[name]
        request = {"path": module["module"], "args": module["args"], "exec": module["exec"]}
        if module["module"] != name:
            request["name"] = name
        self.rpc("module.load", request).get()

    def remove(self, name):
        self.rpc("module.remove", {"name": name}).get()


def predecessors(context, tasks, modules, removing):
    """What each task and module comes after, those to be done only."""
    nodes = list(modules) + list(tasks)
    deps = {name: set() for name in nodes}
    items = [(name, context.modules.get(name), True) for name in modules]
    items += [(name, vars(TASKS[name]), False) for name in tasks]
    for name, item, is_module in items:
        if item is None:
            continue
        for other in map(context.resolve, item["after"]):
            if other in deps and other != name:
                if removing and is_module:
                    deps[other].add(name)
                else:
                    deps[name].add(other)
        for other in map(context.resolve, item["before"]):
            if other in deps and other != name:
                if removing and is_module:
                    deps[name].add(other)
                else:
                    deps[other].add(name)
    first = {name for name in tasks if "*" in TASKS[name].before}
    last = {name for name in tasks if "*" in TASKS[name].after}
    for name in nodes:
        if name not in first:
            deps[name] |= first
        if name in last:
            deps[name] |= set(nodes) - last
    return deps


def plan(context, order):
    """The names of tasks to run and of modules to load or remove."""
    tasks = [name for name in TASKS if context.is_enabled(name)]
    mods = context.rpc("module.list").get()["mods"]
    loaded = [entry["name"] for entry in mods if entry["path"] != "builtin"]
    if context.removes is not None:
        wanted = loaded if context.removes == "all" else context.removes
        return tasks, [name for name in loaded if name in map(context.resolve, wanted)]
    names = list(context.loads)
    if order["rc"] == "rc1":
        chosen = [name for name, module in context.modules.items() if module["chosen"]]
        names = [name for name in chosen if context.modules[name]["enabled"]] + names
    names += [need for name in tasks for need in TASKS[name].requires]
    wanted = context.required(names)
    # What would be loaded at the start of an instance does not depend on what is loaded now.
    if not (order["rc"] == "rc1" and order["dry_run"]):
        wanted = [name for name in wanted if name not in loaded]
    return tasks, wanted


def describe(context, name, removing):
    if name in TASKS:
        return f"run {name}"
    if removing:
        return f"remove {name}"
    return " ".join(["load", name, *context.modules[name]["args"]])


def act(context, name, removing):
    if name in TASKS:
        TASKS[name].function(context)
    elif removing:
        context.remove(name)
    else:
        context.load(name)


def main(order):
    module = types.ModuleType("flux.modprobe")
    module.task = task
    sys.modules["flux.modprobe"] = module
    flux.modprobe = module
    context = Context(order)
    if order["rc"] == "rc3":
        context.remove_modules()
    for path in order["files"]:
        names = runpy.run_path(path)
        if "setup" in names:
            names["setup"](context)
    removing = context.removes is not None
    tasks, modules = plan(context, order)
    deps = predecessors(context, tasks, modules, removing)
    if order["show_deps"]:
        print({name: sorted(others) for name, others in deps.items()})
        return 0
    sorter = graphlib.TopologicalSorter(deps)
    sorter.prepare()
    failed = False
    while sorter.is_active() and not failed:
        # What is ready together may be done together, so one failure does not keep the others.
        for name in sorter.get_ready():
            if order["dry_run"] or order["verbose"]:
                print(describe(context, name, removing), flush=True)
            try:
                if not order["dry_run"]:
                    act(context, name, removing)
                sorter.done(name)
            except Exception as error:
                print(f"flux-modprobe: ERROR: {name}: {error}", file=sys.stderr)
                failed = True
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(json.loads(sys.argv[1])))
    except graphlib.CycleError as error:
        print(f"flux-modprobe: ERROR: nodes are in a cycle: {error.args[1]}", file=sys.stderr)
    except (OSError, ValueError, KeyError) as error:
        print(f"flux-modprobe: ERROR: {error}", file=sys.stderr)
    sys.exit(1)
