from flux.cli.plugin import CLIPlugin


class Site(CLIPlugin):
    """What the site wants."""

    def __init__(self, prog):
        super().__init__(prog, prefix="site")
        self.add_option("--project", help="The project %(metavar)s", metavar="NAME")
        self.add_option("--size", type=int, default=1, help="Its size")
        self.add_option("--fast", action="store_true", help="Whether it is fast")

    def preinit(self, args):
        if args.site_project == "none":
            raise ValueError("none is no project")
        if args.site_fast:
            args.ntasks = 2 * args.site_size
            args.job_name = f"{args.command[0]} of {args.site_project}"
            args.setattr = ["system.project=" + args.site_project]

    def modify_jobspec(self, args, jobspec):
        if args.site_fast:
            jobspec.jobspec["attributes"]["system"]["size"] = args.site_size

    def validate(self, jobspec):
        if jobspec.jobspec["attributes"]["system"]["duration"] == 60:
            raise ValueError("a minute is not enough")
