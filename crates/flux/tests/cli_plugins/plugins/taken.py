from flux.cli.plugin import CLIPlugin


class Taken(CLIPlugin):
    def __init__(self, prog):
        super().__init__(prog, prefix="site")
        self.add_option("--project", help="Somebody else has it")

    def preinit(self, args):
        raise ValueError("not to be called")
