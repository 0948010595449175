"""Runs validator or frobnicator plugins, which are written for the Python bindings.

The first argument says which kind. One JSON request a line comes in, one JSON answer a line goes
out.
"""

import json
import os
import sys

try:
    from flux.cli.argparse import FluxArgumentParser as ArgumentParser
except ImportError:
    # Older bindings do with the standard parser.
    from argparse import ArgumentParser


def frobnicate(frobnicator, job):
    from flux.job import Jobspec

    try:
        jobspec = Jobspec(**job["jobspec"])
    except Exception as error:
        return json.dumps({"errnum": 1, "errstr": f"invalid jobspec: {error}"})
    try:
        frobnicator.frob(jobspec, job["userid"], job["urgency"], job["flags"])
    except Exception as error:
        return json.dumps({"errnum": 1, "errstr": str(error)})
    return json.dumps({"errnum": 0, "data": jobspec.jobspec})


def main(kind, words):
    prog = f"flux-job-{kind}"
    parser = ArgumentParser(prog=prog, add_help=False)
    parser.add_argument("--jobspec-only", action="store_true")
    parser.add_argument("--list-plugins", action="store_true")
    if kind == "validator":
        from flux.job.validator import JobValidator

        host = JobValidator(words, parser=parser)
    else:
        from flux.job.frobnicator import JobFrobnicator

        host = JobFrobnicator(words, parser=parser)
    if host.args.list_plugins:
        print("Available plugins:")
        for name in host.plugins:
            print(name)
        return 0
    # Plugins add their options when they are started, and help shows them.
    parser.add_argument("-h", "--help", action="help")
    try:
        host.start()
    except ValueError as error:
        print(f"{prog}: CRITICAL: {error}", file=sys.stderr)
        return 1
    for line in sys.stdin:
        job = json.loads(line)
        if host.args.jobspec_only:
            job = {"jobspec": job, "userid": os.getuid(), "urgency": 16, "flags": 0}
        for key in ("jobspec", "userid", "urgency", "flags"):
            if key not in job:
                print(f"{prog}: CRITICAL: Missing keys in input: {key}", file=sys.stderr)
                return 1
        answer = host.validate(job) if kind == "validator" else frobnicate(host, job)
        print(answer, flush=True)
    return 0


sys.exit(main(sys.argv[1], sys.argv[2:]))
