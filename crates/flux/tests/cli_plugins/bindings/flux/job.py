"""As much of the bindings as plugins need."""

import json


class Jobspec:
    def __init__(self, **jobspec):
        self.jobspec = jobspec

    def dumps(self):
        return json.dumps(self.jobspec)


class JobspecV1(Jobspec):
    pass
