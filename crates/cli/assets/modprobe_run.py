"""Runs an rc file of `flux modprobe run`: its setup function, then its tasks among the modules.

Started by the command with the file, the standard modules as JSON (name, leader only, provides)
and whether to say what is done. The file imports `task` from `flux.modprobe`; that module is
stood in for here, so only the general bindings are needed.
"""

import json
import os
import runpy
import sys
import types

import flux
import flux.idset

TASKS = []


class Task:
    def __init__(self, name, function, ranks=None, before=(), after=(), requires=(), needs=(), **_):
        self.name, self.function, self.ranks = name, function, ranks
        self.before, self.after = list(before), list(after)
        self.needs = list(needs) + list(requires)


def task(name, **options):
    def decorate(function):
        TASKS.append(Task(name, function, **options))
        return function

    return decorate


def on_rank(ranks, rank):
    if ranks is None or ranks == "all":
        return True
    if isinstance(ranks, str) and ranks[:1] in "<>":
        number = int(ranks[1:])
        return rank < number if ranks[0] == "<" else rank > number
    return rank in flux.idset.IDset(str(ranks))


class Context:
    def __init__(self, standard):
        self.handle = flux.Flux()
        self.rank = int(self.handle.attr_get("rank"))
        self.standard = standard
        self.options, self.loads, self.removes, self.values = {}, [], None, {}

    def setopt(self, module, *options, overwrite=False):
        new = [word for option in options for word in option.split()]
        self.options[module] = new if overwrite else self.options.get(module, []) + new

    def getopts(self, module, default=None, also=None):
        names = [module] + list(also or [])
        words = [word for name in names for word in self.options.get(name, [])]
        return (default or []) + words

    def load_modules(self, modules):
        self.loads += modules

    def remove_modules(self, modules=None):
        self.removes = modules or "all"

    def set(self, key, value):
        self.values[key] = value

    def get(self, key, default=None):
        return self.values.get(key, default)

    def rpc(self, topic, *args, **kwargs):
        return self.handle.rpc(topic, *args, **kwargs)

    def attr_get(self, name, default=None):
        try:
            return self.handle.attr_get(name)
        except OSError:
            return default

    def conf_get(self, key, default=None):
        return self.handle.conf_get(key, default=default)

    def getenv(self, name, default=None):
        return os.environ.get(name, default)

    def bash(self, command):
        if os.system(command) != 0:
            raise RuntimeError(command)

    def print(self, *words):
        print(*words, file=sys.stderr)

    def resolve(self, name):
        for entry in self.standard:
            if name == entry["name"] or name in entry["provides"]:
                return entry["name"]
        return name

    def load(self, name):
        words = self.options.get(name, [])
        self.handle.rpc("module.load", {"path": name, "args": words}).get()

    def remove(self, name):
        try:
            self.handle.rpc("module.remove", {"name": name}).get()
        except FileNotFoundError:
            pass


def ordered(steps):
    """Orders (name, before, after, action): those named come first or last as they say."""
    index = {step[0]: number for number, step in enumerate(steps)}
    comes_after = {step[0]: set() for step in steps}
    for name, before, after, _ in steps:
        comes_after[name] |= {other for other in after if other in index}
        for other in before:
            if other in index:
                comes_after[other].add(name)
    done, order = set(), []
    while len(order) < len(steps):
        ready = [s for s in steps if s[0] not in done and comes_after[s[0]] <= done]
        if not ready:
            raise RuntimeError("tasks wait for each other: " + ", ".join(set(index) - done))
        order.append(ready[0])
        done.add(ready[0][0])
    return order


def main(path, standard):
    module = types.ModuleType("flux.modprobe")
    module.task = task
    sys.modules["flux.modprobe"] = module
    flux.modprobe = module
    context = Context(standard)
    names = runpy.run_path(path)
    if "setup" in names:
        names["setup"](context)
    steps = []
    loaded = {entry["name"] for entry in context.rpc("module.list").get()["mods"]}
    if context.removes is None:
        wanted = {context.resolve(name) for name in context.loads}
        chain = []
        for entry in standard:
            if entry["name"] in wanted and (context.rank == 0 or not entry["leader"]):
                name = entry["name"]
                if name not in loaded:
                    steps.append((name, [], chain[-1:], lambda name=name: context.load(name)))
                    chain.append(name)
    else:
        gone = [entry["name"] for entry in standard if entry["name"] in loaded]
        if context.removes != "all":
            gone = [name for name in gone if name in context.removes]
        previous = []
        for name in reversed(gone):
            steps.append((name, [], previous, lambda name=name: context.remove(name)))
            previous = [name]
    present = {step[0] for step in steps}
    alias = context.resolve
    for item in TASKS:
        if not on_rank(item.ranks, context.rank):
            continue
        if any(alias(name) not in present and alias(name) not in loaded for name in item.needs):
            continue
        before = [alias(name) for name in item.before]
        after = [alias(name) for name in item.after]
        action = lambda item=item: item.function(context)
        steps.append((item.name, before, after, action))
    code = 0
    for name, _, _, action in ordered(steps):
        try:
            action()
        except Exception as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
