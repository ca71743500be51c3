from percep.ball import SSIMBall
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers import solve
from percep.windows import Window
