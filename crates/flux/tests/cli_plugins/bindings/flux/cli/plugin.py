"""As much of the bindings as plugins need."""


class Option:
    def __init__(self, name, prefix, **kwargs):
        self.name = name.replace("--", f"--{prefix}-", 1)
        self.kwargs = dict(kwargs, dest=self.name[2:].replace("-", "_"))
        self.dest = self.kwargs["dest"]


class CLIPlugin:
    def __init__(self, prog, prefix="ex"):
        self.prog = prog
        self.prefix = prefix
        self.options = []

    def add_option(self, name, **kwargs):
        self.options.append(Option(name, self.prefix, **kwargs))

    def help(self, option):
        print(f"{option.name}: {self.__doc__}")

    def preinit(self, args):
        pass

    def modify_jobspec(self, args, jobspec):
        pass

    def validate(self, jobspec):
        pass
