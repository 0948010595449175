# Hosts the plugins of a submission command: loads them, parses their options, calls them.

import argparse
import importlib.util
import inspect

PLUGINS = []
PARSER = None
ARGS = None


class UsageError(Exception):
    pass


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def classes(path):
    from flux.cli.plugin import CLIPlugin

    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for _, found in inspect.getmembers(module, inspect.isclass):
        if issubclass(found, CLIPlugin) and found is not CLIPlugin:
            yield found


def described(option, action):
    if isinstance(action.nargs, int) and action.nargs > 0 or action.nargs in ("*", "+"):
        raise ValueError(f"{option.name}: nargs={action.nargs!r} is not supported")
    if action.nargs == 0:
        kind = "none"
    else:
        kind = "maybe" if action.nargs == "?" else "one"
    metavar = action.metavar
    if metavar is None and action.choices is not None:
        metavar = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    if metavar is None:
        metavar = action.dest.upper()
    text = action.help or ""
    shown = dict(vars(action), prog=PARSER.prog, metavar=metavar)
    return {
        "name": option.name,
        "argument": kind,
        "metavar": str(metavar),
        "help": text % shown,
        "raw_help": text,
    }


def load(prog, files, quiet):
    """Loads plugins. One whose options another has already is left out."""
    global PARSER
    if quiet:
        os.dup2(2, 1)
    PARSER = Parser(prog=prog, add_help=False, allow_abbrev=False)
    listed = []
    taken = set()
    for path in files:
        try:
            for found in classes(path):
                plugin = found(prog)
                plugin.path = path
                if taken & {option.dest for option in plugin.options}:
                    continue
                options = []
                for option in plugin.options:
                    taken.add(option.dest)
                    action = PARSER.add_argument(option.name, **option.kwargs)
                    options.append(described(option, action))
                PLUGINS.append(plugin)
                listed.append({"name": found.__name__, "path": path, "options": options})
        except Exception as error:
            raise ValueError(f"{path}: {str(error) or type(error).__name__}") from error
    return listed


def tell(option):
    """Shows what a plugin has to say of one of its options."""
    for plugin in PLUGINS:
        for own in plugin.options:
            if own.name == option:
                plugin.help(own)
                return True
    return False


def proxied(plugin):
    """The arguments as a plugin sees them: its own options without their prefix too."""
    try:
        from flux.cli.plugin import PluginArgsProxy
    except ImportError:
        return ARGS
    aliases = {}
    for option in plugin.options:
        plain = getattr(option, "_unprefixed_dest", None)
        if plain is not None:
            aliases[plain] = option.dest
    return PluginArgsProxy(ARGS, aliases)


def preinit(base, words):
    """Takes the command line, and tells which of the command's own arguments plugins changed."""
    global ARGS
    ARGS = argparse.Namespace(**json.loads(json.dumps(base)))
    try:
        PARSER.parse_args(words, namespace=ARGS)
    except UsageError as error:
        return {"usage": str(error)}
    for plugin in PLUGINS:
        plugin.preinit(proxied(plugin))
    now = vars(ARGS)
    return {"changed": {key: now[key] for key in base if key in now and now[key] != base[key]}}


def made_of(jobspec):
    from flux.job import Jobspec, JobspecV1

    try:
        return JobspecV1(**jobspec)
    except (TypeError, ValueError):
        return Jobspec(**jobspec)


def modify(jobspec):
    made = made_of(jobspec)
    for plugin in PLUGINS:
        plugin.modify_jobspec(proxied(plugin), made)
    return json.loads(made.dumps())


def validate(jobspec):
    made = made_of(jobspec)
    for plugin in PLUGINS:
        plugin.validate(made)


def answer(call, **arguments):
    return CALLS[call](**arguments)


CALLS = {function.__name__: function for function in (load, tell, preinit, modify, validate)}


serve(answer)
