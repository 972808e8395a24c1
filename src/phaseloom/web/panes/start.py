import panel as pn
class StartPane:
    def __init__(self, desk): self.view=pn.Column("start")
